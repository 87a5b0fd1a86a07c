"""The trainer as training/build.py builds it, one segment of steps at a time, on real data or on one batch.

A segment ends with the only wait for the device that it has. Before it come steps that do not count: they empty what
the loader had ready, so that a fast start is no part of the figure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from benchmarks.fixed_batch import FixedBatch
from pipelines.beton.reader import BetonFile
from pipelines.draws.views import ViewSettings
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import PairedLoader
from training.build import build_image_works, build_ordinary_loader, build_placed_model, build_step
from training.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig
from training.fast_kernels import CompileSetting, measure_cudnn_kernels
from training.objectives import build_objective
from training.optimizer import Implementation
from training.process_group import ProcessGroup
from training.step import MeanMetrics, StepInput, TrainStep

PREFETCH = 2
WITHOUT_END = 1 << 30
"""Epochs: more than any benchmark takes."""
Layout = Literal["channels_last", "contiguous"]
Precision = Literal["float32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """What of a trainer is compared: GLMC on photographs."""

    backbone: str
    batch: int
    """N, pairs of a step."""
    layout: Layout = "channels_last"
    precision: Precision = "bf16"
    compile: CompileSetting = "none"
    size: int = 224
    """Side of a view, pixels."""
    implementation: Implementation = "auto"
    """Of SGD."""

    @property
    def name(self) -> str:
        """What its rows are called."""
        name = f"{self.backbone}/{self.layout}/{self.precision}/compile {self.compile}/batch {self.batch}"
        return name if self.implementation == "auto" else f"{name}/{self.implementation} SGD"

    def config(self, beton: BetonFile, decode: str) -> Config:
        """The run that it is, with `data.decode`."""
        return Config(
            method="glmc",
            data=DataConfig(train=str(beton.path), prefetch=PREFETCH, decode=decode),
            view=ViewSettings(size=self.size),
            model=ModelConfig(backbone=self.backbone),
            optim=OptimConfig(
                epochs=WITHOUT_END, batch_size=self.batch, lr=0.01, implementation=self.implementation
            ),
            run=RunConfig(folder=".", precision=self.precision, compile=self.compile),
        )


@dataclass(frozen=True)
class Segment:
    """What one segment took."""

    steps: int
    seconds: float
    waited: float
    """Seconds of the host in the loader."""


class BenchmarkTrainer:
    """A trainer with its batches; to be closed."""

    steps_before = PREFETCH + 2
    """Steps of a segment that do not count."""

    def __init__(
        self,
        settings: TrainerSettings,
        beton: BetonFile,
        device: torch.device,
        pool: ThreadPool,
        decoders: Sequence[str] = ("cpu",),
    ) -> None:
        """Build the model and a loader for each of `decoders`, values of `data.decode`.

        Raises:
            UserError: this machine cannot decode so.
        """
        torch.compiler.reset()  # of the models before, of which only so many are kept apart
        measure_cudnn_kernels(device)
        self.settings = settings
        self.device = device
        self.group = group = ProcessGroup(0, 1, device)
        config, ranks = settings.config(beton, "cpu"), RankSlice(0, 1)
        objective = build_objective("glmc", torch.from_numpy(beton.counts).to(device), config.glmc)
        model = build_placed_model(config, beton.num_classes, group)
        contiguous = settings.layout == "contiguous"
        if contiguous:
            model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.train_layers(objective.trained_layers)
        self.model = model
        self.step: TrainStep = build_step(config, model, objective, group)
        loaders: dict[str, PairedLoader] = {}
        for decode in decoders:
            each = settings.config(beton, decode)
            loader = build_ordinary_loader(each, beton, ranks, build_image_works(each, ranks, device, pool))
            assert isinstance(loader, PairedLoader)
            loaders[decode] = loader
        self._real = {decode: iter(loader.batches()) for decode, loader in loaders.items()}
        dtype = self.step.precision if device.type == "cuda" else torch.float32  # as the loaders make them
        self.fixed = FixedBatch(beton, loaders[decoders[0]], dtype, contiguous=contiguous)
        self.alpha = torch.full((), 0.5, device=device)

    def real_batches(self, decode: str = "cpu") -> Iterator[StepInput]:
        """Batches of decoded images, one after the other over the whole benchmark."""
        return self._real[decode]

    def fixed_batches(self) -> Iterator[StepInput]:
        """One batch of views that lies on the device, mixed anew for each step."""
        while True:
            yield self.fixed

    def run(self, batches: Iterator[StepInput], steps: int) -> Segment:
        """Train for `steps` steps; see the head of this file."""
        for _ in range(self.steps_before):
            self.step(next(batches), self.alpha)
        metrics, waited = MeanMetrics(), 0.0
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            metrics.add(self.step(batch, self.alpha))
        metrics.read(self.group)
        self.wait()
        return Segment(steps, time.perf_counter() - start, waited)

    def steps_for(self, seconds: float) -> int:
        """How many steps a segment of `seconds` has; compiles, times cuDNN's algorithms and so on before it counts."""
        segment = self.run(self.fixed_batches(), 3)
        return max(2, int(np.ceil(seconds * segment.steps / segment.seconds)))

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Leave nothing running."""
        for batches in self._real.values():
            batches.close()  # type: ignore[attr-defined]
