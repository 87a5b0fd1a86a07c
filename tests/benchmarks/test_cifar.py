"""The benchmark of a run on CIFAR's shape: its set, its clock, its rows."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from benchmarks.cifar import (
    GRAPHS,
    SETTINGS,
    EpochLog,
    Runs,
    epochs_that_fit,
    on_gpu,
    random_images,
    rows_of,
    steady,
)
from benchmarks.measurement import Row
from benchmarks.progress import Progress
from pipelines.beton.reader import open_beton
from pipelines.thread_pool import ThreadPool
from tools.benchmark import main
from training.stop_signals import REQUEUE


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
    assert rows["epochs"].median == 3
    assert rows["first_epoch_seconds"].median == 9
    per_step = rows["milliseconds_per_step"]
    assert (per_step.min, per_step.max) == pytest.approx((250, 500))
    assert rows["forward_images_per_second"].max == pytest.approx(128 / 0.25)


def test_a_gpu_takes_the_published_network_as_a_graph(tmp_path: Path) -> None:
    with ThreadPool(1) as pool:
        runs = Runs(tmp_path / "train.beton", torch.device("cuda"), pool, Progress())
        configs = {name: runs.config(name, name, 200) for name in SETTINGS}
    for name, config in configs.items():
        assert (config.model.backbone, config.model.width) == ("resnet32", 64)
        assert (config.optim.epochs, config.optim.batch_size) == (200, 64)
        assert config.run.cuda_graph == (name in GRAPHS)
        assert (config.run.compile == "none") == ("compiled" not in name)
    assert len({config.run.folder for config in configs.values()}) == 4


def test_a_run_that_a_signal_ends_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a stage on a borrowed machine is out of time: what was shown says how many epochs it is of."""
    monkeypatch.setattr("benchmarks.cifar.SECONDS_BETWEEN", 0)
    written: list[dict[str, float]] = []

    def write(rows: Sequence[Row]) -> None:
        written.append({row.metric: row.median for row in rows})
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with random_images(20) as path, ThreadPool(1) as pool, pytest.raises(SystemExit, match=str(REQUEUE)):
        Runs(path, torch.device("cpu"), pool, Progress(write)).time("eager", "eager", 50)
    assert [each.get("epochs", 0) for each in written] == [0, 1]


def test_epochs_are_as_many_as_fit_into_the_time() -> None:
    """20 s for the first epoch of a shorter run, 2 s for each of the others but one."""
    tried = [20.0, 22, 24, 29, 31]
    assert steady(tried) == 2
    assert epochs_that_fit(tried, 600, 200) == 200
    assert epochs_that_fit(tried, 30 + 2.2 * 50 + 0.1, 200) == 50
    assert epochs_that_fit(tried, 0, 200) == 1


def test_a_run_in_progress_is_shown_now_and_then(tmp_path: Path) -> None:
    class Clock:
        training_seconds = 0.0

    class Trainer:
        clock = Clock()

    shown: list[int] = []
    log = EpochLog(Trainer(), lambda seconds: shown.append(len(seconds)))
    for seconds in (4, 8, 12, 16, 20, 24):
        Clock.training_seconds = seconds
        log.write({"kind": "train"})
        log.write({"kind": "evaluation"})
    assert log.seconds == [4, 8, 12, 16, 20, 24]
    assert shown == [3, 6]


class Told(Runs):
    """Runs whose epochs take what they are told, the first one ten seconds more."""

    def time(self, name: str, settings: str, epochs: int) -> list[float]:
        self.done = [*getattr(self, "done", []), (name, settings, epochs)]
        each = {"graph": 0.5, "graph, compiled": 0.6, "eager": 2.0, "compiled": 1.5}[settings]
        return [10 + each * (1 + i) for i in range(epochs)]


@pytest.mark.parametrize(
    ("minutes", "epochs", "note"),
    [
        (None, 200, "graph, 200 epochs: 110.0 s of training, goal 150 s: reached"),
        (1.0, 80, "graph, 80 epochs: 50.0 s of training; there was no time for 200, so the goal is open"),
    ],
)
def test_the_faster_graph_runs_all_epochs(minutes: float | None, epochs: int, note: str) -> None:
    with ThreadPool(1) as pool:
        runs = Told(Path("none.beton"), torch.device("cpu"), pool, Progress(minutes=minutes))
        notes = on_gpu(runs, 200)
    assert runs.done[:3] == [
        ("graph, compiled", "graph, compiled", 6),
        ("graph", "graph", 6),
        (f"graph, {epochs} epochs", "graph", epochs),
    ]
    assert [name for name, _, _ in runs.done[3:]] == ["eager", "compiled"]
    assert notes == [note]


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "cifar.json"
    arguments = ["cifar", "--images", "3", "--epochs", "2", "--cores", "1", "--json", str(out)]
    assert main([*arguments, "--picture", str(tmp_path / "cifar.png")]) == 0
    rows = {row["metric"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["training_seconds"]["median"] > rows["first_epoch_seconds"]["median"] > 0
    assert rows["milliseconds_per_step"]["runs"] == 1
