"""`cifar`: how long a run on CIFAR-100-LT takes, on random images of its shape and counts (no accuracy is claimed).

The run is that of training/train.py, without evaluation: GLMC, imbalance factor 100 (10,847 images of 100 classes),
batch 64, 200 epochs or 34,000 steps. On a GPU it is the official ResNet-32 with 64 base channels, all epochs as one
CUDA graph a step, and for comparison a few epochs with the settings in between. On a CPU a small network takes a few
epochs. --images is the size of the largest class.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import Command, whole
from benchmarks.measurement import Row, row_of
from benchmarks.results import Results
from pipelines.beton_format import RAW_MODE
from pipelines.beton_writer import write_beton
from pipelines.image_bytes import EncodedImage
from pipelines.long_tail import exponential_counts
from pipelines.sources import from_rows
from pipelines.thread_pool import ThreadPool
from pipelines.view_draws import ViewSettings
from training.build import build_trainer, open_betons
from training.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from training.loop import Trainer
from training.process_group import ProcessGroup, choose_device
from training.run_folder import RunFolder
from training.run_log import SilentLog

CLASSES, FACTOR, SIDE, BATCH = 100, 100, 32, 64
EPOCHS, FEW = 200, 6
"""Of the published run; of those that are only compared."""
GOAL = 150.0
"""Seconds of training on one H200."""
NEVER = 1 << 30
"""As log steps: only the ends of epochs are logged then."""


@dataclass
class EpochLog(SilentLog):
    """Keeps the trainer's own clock at the end of each epoch, when it has waited for the device."""

    trainer: Trainer
    seconds: list[float] = field(default_factory=list)

    def write(self, entry: dict[str, Any]) -> None:
        """Called with every log entry."""
        if entry["kind"] == "train":
            self.seconds.append(self.trainer.clock.training_seconds)


def run(options: argparse.Namespace) -> Results:
    """Train with each of the settings."""
    device = choose_device("auto", 0)
    rows, notes = [], []
    with random_images(options.images) as path, ThreadPool(options.cores) as pool:
        for name, config in runs(path, device, options.epochs):
            print(f"{name}, {config.optim.epochs} epochs", flush=True)
            seconds, steps = train(config, device, pool)
            rows += rows_of(name, seconds, steps)
            if config.optim.epochs == EPOCHS and device.type == "cuda":
                verdict = "reached" if seconds[-1] <= GOAL else "missed"
                notes.append(f"{name}: {seconds[-1]:.1f} s of training, goal {GOAL:g} s: {verdict}")
    return Results(
        title="CIFAR-100-LT (IF 100), random images",
        rows=rows,
        drawn=("training_seconds", "milliseconds_per_step", "forward_images_per_second"),
        notes=notes,
    )


def runs(beton: Path, device: torch.device, epochs: int | None) -> Iterator[tuple[str, Config]]:
    """The runs to compare, by name, each in a folder of its own beside the beton."""
    on_gpu = device.type == "cuda"
    whole_run = Config(
        method="glmc",
        data=DataConfig(train=str(beton)),
        view=ViewSettings(size=SIDE, crop="padded"),
        model=ModelConfig(backbone="resnet32" if on_gpu else "resnet8", width=64 if on_gpu else 4),
        optim=OptimConfig(epochs=epochs or (EPOCHS if on_gpu else 3), batch_size=BATCH, lr=0.01),
        run=RunConfig(folder="", log_steps=NEVER, device="cuda" if on_gpu else "cpu"),
    )
    few = replace(whole_run, optim=replace(whole_run.optim, epochs=min(FEW, whole_run.optim.epochs)))
    if not on_gpu:
        yield _run("eager", whole_run, beton, cuda_graph=False, compile="none")
        return
    yield _run("eager", few, beton, cuda_graph=False, compile="none")
    yield _run("compiled", few, beton, cuda_graph=False, compile="default")
    yield _run("graph", few, beton, cuda_graph=True, compile="none")
    yield _run("graph, compiled", whole_run, beton, cuda_graph=True, compile="default")


def _run(name: str, config: Config, beton: Path, **settings: Any) -> tuple[str, Config]:
    folder = beton.parent / name.replace(", ", "_")
    return name, replace(config, run=replace(config.run, folder=str(folder), **settings))


def train(config: Config, device: torch.device, pool: ThreadPool) -> tuple[list[float], int]:
    """Seconds of training up to the end of each epoch, compilation and recording included; and steps an epoch."""
    torch.compiler.reset()
    folder = RunFolder(Path(config.run.folder))
    folder.create()
    trainer = build_trainer(config, open_betons(config), folder, ProcessGroup(0, 1, device), pool, anew=True)
    log = EpochLog(trainer)
    trainer.log = log
    trainer.train()
    return log.seconds, len(trainer.loader)


def rows_of(name: str, seconds: Sequence[float], steps: int) -> list[Row]:
    """Sum up a run; the first epoch, in which everything is set up, is apart from the others."""
    epochs = np.diff(seconds, prepend=0.0)
    steady = (epochs[1:] if len(epochs) > 1 else epochs) / steps
    return [
        _row([seconds[-1]], name, "training_seconds", "s"),
        _row([float(epochs[0])], name, "first_epoch_seconds", "s"),
        _row((1000 * steady).tolist(), name, "milliseconds_per_step", "ms"),
        _row((2 * BATCH / steady).tolist(), name, "forward_images_per_second", "images/s"),
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
    add_options=add_options,
)
