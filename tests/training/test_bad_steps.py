"""The images that are named are those that the step saw, in the order of its pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.beton.reader import BetonFile, open_beton
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import PairedLoader, PlainLoader, TrainLoader
from training.bad_steps import bad_steps_error, images_of_step, write_bad_steps
from training.build import build_image_works, build_loader
from training.config import Config, DataConfig, OptimConfig, RunConfig
from training.run_folder import RunFolder

N, STEPS_AN_EPOCH = 24, 14


@pytest.fixture(scope="module")
def beton(digits: Path) -> BetonFile:
    return open_beton(digits / "train.beton")


def make_config(method: str) -> Config:
    return Config(
        method=method,  # type: ignore[arg-type]
        data=DataConfig(train="train.beton"),
        optim=OptimConfig(epochs=3, batch_size=N, lr=0.1),
        run=RunConfig(folder="run", seed=5),
    )


def make_loader(method: str, beton: BetonFile, rank: int, ranks: int, pool: ThreadPool) -> TrainLoader:
    config, share = make_config(method), RankSlice(rank, ranks)
    return build_loader(config, beton, share, build_image_works(config, share, torch.device("cpu"), pool))


@pytest.mark.parametrize(("method", "streams"), [("ce", ["uniform"]), ("glmc", ["uniform", "reversed"])])
@pytest.mark.parametrize("done", [1, STEPS_AN_EPOCH, STEPS_AN_EPOCH + 3])
def test_the_labels_are_those_of_the_batch_on_any_number_of_ranks(
    beton: BetonFile, method: str, streams: list[str], done: int
) -> None:
    with ThreadPool(1) as pool:
        loaders = [make_loader(method, beton, rank, 2, pool) for rank in range(2)]
        assert isinstance(loaders[0], PlainLoader if method == "ce" else PairedLoader)
        batches = [next(iter(loader.batches(done - 1))) for loader in loaders]
        seen = [images_of_step(done, loader, beton) for loader in loaders]
        assert len(loaders[0]) == STEPS_AN_EPOCH
    assert seen[0] == seen[1], "all ranks name the global batch"
    assert (seen[0]["step"], seen[0]["epoch"]) == (done, (done - 1) // STEPS_AN_EPOCH)
    assert list(seen[0])[2:] == streams
    for stream, labels in zip(streams, ("label_a", "label_b"), strict=False):
        indices = [image["index"] for image in seen[0][stream]]
        assert len(indices) == N
        expected = torch.cat([getattr(batch, labels) for batch in batches])
        assert np.array_equal(beton.labels[indices], expected.numpy())


def test_paths_are_those_of_the_manifest_and_the_message_names_the_first(
    beton: BetonFile, tmp_path: Path
) -> None:
    assert beton.manifest is not None
    region = beton.manifest.source_paths
    text = (beton.path.read_bytes()[region.offset : region.offset + region.length]).decode()
    paths = text.split("\n")
    with ThreadPool(1) as pool:
        loader = make_loader("glmc", beton, 0, 1, pool)
        steps = [images_of_step(done, loader, beton) for done in (20, 21)]
    folder = RunFolder(tmp_path)
    write_bad_steps(steps, folder)
    read = json.loads((tmp_path / "bad_steps.json").read_text())
    assert read == steps
    for step in read:
        for stream in ("uniform", "reversed"):
            assert [image["path"] for image in step[stream]] == [paths[i["index"]] for i in step[stream]]
    message = str(bad_steps_error(steps, make_config("glmc"), folder))
    assert "not finite in 2 steps in a row, from step 20 (epoch 1)" in message
    assert "there was no checkpoint before them" in message
    for stream in ("uniform", "reversed"):
        first = ", ".join(image["path"] for image in read[0][stream][:3])
        assert f"{stream} {first}" in message
