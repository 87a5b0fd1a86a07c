"""The benchmark of a run on CIFAR's shape: its set, its clock, its rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.cifar import random_images, rows_of, runs
from pipelines.beton_reader import open_beton
from tools.benchmark import main


@pytest.fixture(autouse=True)
def same_cores() -> Iterator[None]:
    """The command keeps this process to some of its cores; give them back."""
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def test_the_set_has_the_published_counts() -> None:
    """Cui et al.: 10,847 images at imbalance factor 100, 500 of the first class, 5 of the last."""
    with random_images(500) as path:
        beton = open_beton(path)
        assert beton.num_images == 10847
        assert (beton.counts[0], beton.counts[99], beton.num_classes) == (500, 5, 100)
        images = beton.raw_images()
        assert images is not None and images.shape == (10847, 32, 32, 3)
        assert 250 < len(set(images[0].ravel().tolist())) <= 256, "noise has almost every level"
    assert not path.exists()


def test_the_first_epoch_is_apart() -> None:
    rows = {row.metric: row for row in rows_of("graph", [9.0, 10.0, 12.0], steps=4)}
    assert rows["training_seconds"].median == 12
    assert rows["first_epoch_seconds"].median == 9
    per_step = rows["milliseconds_per_step"]
    assert (per_step.min, per_step.max) == pytest.approx((250, 500))
    assert rows["forward_images_per_second"].max == pytest.approx(128 / 0.25)


def test_a_gpu_takes_the_published_network_and_all_epochs_as_a_graph(tmp_path: Path) -> None:
    planned = dict(runs(tmp_path / "train.beton", torch.device("cuda"), None))
    final = planned["graph, compiled"]
    assert (final.model.backbone, final.model.width) == ("resnet32", 64)
    assert (final.optim.epochs, final.optim.batch_size, final.run.cuda_graph) == (200, 64, True)
    assert all(config.optim.epochs == 6 for name, config in planned.items() if name != "graph, compiled")


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "cifar.json"
    arguments = ["cifar", "--images", "3", "--epochs", "2", "--cores", "1", "--json", str(out)]
    assert main([*arguments, "--picture", str(tmp_path / "cifar.png")]) == 0
    rows = {row["metric"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["training_seconds"]["median"] > rows["first_epoch_seconds"]["median"] > 0
    assert rows["milliseconds_per_step"]["runs"] == 1
