"""`cifar`: how long a run on CIFAR-100-LT takes, on random images of its shape and counts (no accuracy is claimed).

The run is that of training/train.py, without evaluation: GLMC, imbalance factor 100 (10,847 images of 100 classes),
batch 64, 200 epochs or 34,000 steps. On a GPU it is the official ResNet-32 with 64 base channels, one CUDA graph a
step. A few epochs show whether the graph is faster with the model compiled or without; the faster one runs all epochs,
as many as --minutes allow, and a few epochs without a graph follow for comparison. On a CPU a small network takes a few
epochs. --images is the size of the largest class.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import Command, whole
from benchmarks.measurement import Row, row_of
from benchmarks.progress import Progress
from benchmarks.results import Results
from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import RAW_MODE
from pipelines.beton.writer import write_beton
from pipelines.draws.views import ViewSettings
from pipelines.sources.image_list import from_rows
from pipelines.sources.long_tail import exponential_counts
from pipelines.thread_pool import ThreadPool
from training.build import build_trainer, open_betons
from training.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from training.loop import Trainer
from training.process_group import ProcessGroup, choose_device
from training.run_folder import RunFolder
from training.run_log import SilentLog

CLASSES, FACTOR, SIDE, BATCH = 100, 100, 32, 64
EPOCHS, FEW = 200, 6
"""Of the published run; of those that are only compared."""
SETTINGS: dict[str, dict[str, Any]] = {
    "graph, compiled": {"cuda_graph": True, "compile": "default"},
    "graph": {"cuda_graph": True, "compile": "none"},
    "eager": {"cuda_graph": False, "compile": "none"},
    "compiled": {"cuda_graph": False, "compile": "default"},
}
"""Of a run, by its name."""
GRAPHS, OTHERS = ("graph, compiled", "graph"), ("eager", "compiled")
GOAL = 150.0
"""Seconds of training on one H200."""
NEVER = 1 << 30
"""As log steps: only the ends of epochs are logged then."""


MARGIN = 1.1
"""Of the time that a run is expected to take: checkpoints are no training, but take time too."""
SECONDS_BETWEEN = 10.0
"""Of training, from one writing of its rows to the next."""


@dataclass
class EpochLog(SilentLog):
    """Keeps the trainer's own clock at the end of each epoch, when it has waited for the device."""

    trainer: Trainer
    show: Callable[[list[float]], None]
    """Called now and then with what there is."""
    seconds: list[float] = field(default_factory=list)
    shown: float = 0.0

    def write(self, entry: dict[str, Any]) -> None:
        """Called with every log entry."""
        if entry["kind"] != "train":
            return
        self.seconds.append(self.trainer.clock.training_seconds)
        if self.seconds[-1] - self.shown > SECONDS_BETWEEN:
            self.shown = self.seconds[-1]
            self.show(self.seconds)


def run(options: argparse.Namespace) -> Results:
    """Train with each of the settings."""
    device = choose_device("auto", 0)
    progress: Progress = options.progress
    with random_images(options.images) as path, ThreadPool(options.cores) as pool:
        runs = Runs(path, device, pool, progress)
        if device.type == "cuda":
            notes = on_gpu(runs, options.epochs or EPOCHS)
        else:
            runs.time("eager", "eager", options.epochs or 3)
            notes = []
    return Results(
        title="CIFAR-100-LT (IF 100), random images",
        rows=progress.rows,
        drawn=("training_seconds", "milliseconds_per_step", "forward_images_per_second"),
        notes=notes,
    )


def on_gpu(runs: Runs, epochs: int) -> list[str]:
    """Find the faster graph, run it for `epochs`, then the others; says whether the goal is reached."""
    few = min(FEW, epochs)
    tried = {settings: runs.time(settings, settings, few) for settings in GRAPHS}
    best = min(tried, key=lambda settings: steady(tried[settings]))
    fitting = epochs_that_fit(tried[best], runs.progress.seconds_left(), epochs)
    name = f"{best}, {fitting} epochs"
    seconds = runs.time(name, best, fitting)
    if fitting < epochs:
        notes = [
            f"{name}: {seconds[-1]:.1f} s of training; there was no time for {epochs}, so the goal is open"
        ]
    elif epochs == EPOCHS:
        verdict = "reached" if seconds[-1] <= GOAL else "missed"
        notes = [f"{name}: {seconds[-1]:.1f} s of training, goal {GOAL:g} s: {verdict}"]
    else:
        notes = []
    for settings in OTHERS:
        # as a guess: a start like the slower one of those before, and steps that are four times as long
        guess = max(each[0] for each in tried.values()) + 4 * few * steady(tried[best])
        if runs.progress.seconds_left() < guess:
            notes.append(f"Left out for want of time: {settings}")
        else:
            runs.time(settings, settings, few)
    return notes


def steady(seconds: Sequence[float]) -> float:
    """Return the median of the seconds of an epoch, the first one left out where there are others."""
    epochs = np.diff(seconds, prepend=0.0)
    return float(np.median(epochs[1:] if len(epochs) > 1 else epochs))


def epochs_that_fit(tried: Sequence[float], left: float, epochs: int) -> int:
    """How many of `epochs` fit into `left` seconds, by the epochs of a shorter run; one at least."""
    spare = left - 1.5 * tried[0]  # of the first epoch, and as much again for what is not training
    return int(max(1, min(epochs, spare / (MARGIN * steady(tried)))))


@dataclass
class Runs:
    """Trains on one set, and keeps rows of it."""

    beton: Path
    device: torch.device
    pool: ThreadPool
    progress: Progress

    def time(self, name: str, settings: str, epochs: int) -> list[float]:
        """Seconds of training up to the end of each epoch, compilation and recording included.

        Where a signal ends the run, so it does the benchmark: a part of a run would pass for the whole.
        """
        print(f"{name}: {epochs} epochs", flush=True)
        torch.compiler.reset()
        config = self.config(name, settings, epochs)
        folder = RunFolder(Path(config.run.folder))
        folder.create()
        group = ProcessGroup(0, 1, self.device)
        trainer = build_trainer(config, open_betons(config), folder, group, self.pool, anew=True)
        steps = len(trainer.loader)
        log = EpochLog(trainer, lambda seconds: self.progress.show(rows_of(name, seconds, steps)))
        trainer.log = log
        if status := trainer.train():
            raise SystemExit(status)
        self.progress.keep(rows_of(name, log.seconds, steps))
        return log.seconds

    def config(self, name: str, settings: str, epochs: int) -> Config:
        """The run of these `SETTINGS`, in a folder of its own beside the beton."""
        on_gpu = self.device.type == "cuda"
        return Config(
            method="glmc",
            data=DataConfig(train=str(self.beton)),
            view=ViewSettings(size=SIDE, crop="padded"),
            model=ModelConfig(backbone="resnet32" if on_gpu else "resnet8", width=64 if on_gpu else 4),
            optim=OptimConfig(epochs=epochs, batch_size=BATCH, lr=0.01),
            run=RunConfig(
                folder=str(self.beton.parent / name.replace(", ", "_")),
                log_steps=NEVER,
                device="cuda" if on_gpu else "cpu",
                **SETTINGS[settings],
            ),
        )


def rows_of(name: str, seconds: Sequence[float], steps: int) -> list[Row]:
    """Sum up a run; the first epoch, in which everything is set up, is apart from the others."""
    epochs = np.diff(seconds, prepend=0.0)
    of_step = (epochs[1:] if len(epochs) > 1 else epochs) / steps
    return [
        _row([len(seconds)], name, "epochs", "epochs"),
        _row([seconds[-1]], name, "training_seconds", "s"),
        _row([float(epochs[0])], name, "first_epoch_seconds", "s"),
        _row((1000 * of_step).tolist(), name, "milliseconds_per_step", "ms"),
        _row((2 * BATCH / of_step).tolist(), name, "forward_images_per_second", "images/s"),
    ]


def _row(values: Sequence[float], name: str, metric: str, unit: str) -> Row:
    return row_of(values, name=name, metric=metric, unit=unit, augmentation="padded-crop-flip")


@contextmanager
def random_images(largest: int) -> Iterator[Path]:
    """A beton of noise with CIFAR-100-LT's shape and, for 500 images of the largest class, counts; then it is gone."""
    counts = exponential_counts(largest, CLASSES, min(FACTOR, largest))
    labels = np.repeat(np.arange(CLASSES), counts)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), SIDE, SIDE, 3), np.uint8)
    names = [str(label) for label in range(CLASSES)]
    images = from_rows([f"noise/{i}" for i in range(len(labels))], labels, names, kind="noise", name="train")
    encoded = (EncodedImage(image.tobytes(), RAW_MODE, SIDE, SIDE, copied=False) for image in pixels)
    with tempfile.TemporaryDirectory(prefix="fasttail-cifar-") as folder:
        path = Path(folder) / "train.beton"
        write_beton(path, images, encoded, settings={})
        yield path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the length of the run."""
    parser.add_argument(
        "--epochs", type=whole, metavar="E", help=f"of the whole run (default: {EPOCHS} on a GPU, 3 on a CPU)"
    )


COMMAND = Command(
    name="cifar",
    summary="time of a run on CIFAR-100-LT: eager, compiled, as a CUDA graph",
    text=__doc__,
    run=run,
    images=500,
    minutes=10.0,
    add_options=add_options,
)
