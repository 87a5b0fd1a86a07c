"""How fast one device trains the network of a configuration when nothing keeps it waiting."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from time import perf_counter

import torch

from pipelines.batch import Batch
from pipelines.rank_slice import RankSlice
from training.build import build_placed_model, build_step
from training.config import Config
from training.fast_kernels import measure_cudnn_kernels
from training.objectives import build_objective
from training.process_group import ProcessGroup
from training.step import MeanMetrics, TrainStep

PAIRS_ON_A_CPU = 8
"""At most; a published batch takes minutes a step there, and larger ones are hardly faster an image."""
STEPS_BEFORE = 3
"""That do not count: cuDNN times its algorithms in them, and torch.compile compiles."""


@dataclass(frozen=True)
class NetworkRate:
    """What a device does of a run."""

    images_per_second: float
    """Forward images; each is in one forward and one backward pass."""
    pairs: int
    """Of a step."""


def network_rate(config: Config, num_classes: int, devices: int, seconds: float) -> NetworkRate:
    """Train for about `seconds` on one batch of random images, as one of `devices` GPUs, or on the CPU where 0.

    Raises:
        UserError: the configuration cannot be trained so, say because its batch does not divide by the devices.
    """
    device = torch.device("cuda", 0) if devices else torch.device("cpu")
    config = replace(config, model=replace(config.model, sync_batchnorm=False))
    pairs = RankSlice(0, max(1, devices)).local_batch(config.optim.batch_size)
    if not devices:
        pairs = min(pairs, PAIRS_ON_A_CPU)
        config = replace(config, optim=replace(config.optim, accumulate=1))
    measure_cudnn_kernels(device)
    step = _step(config, num_classes, device)
    batch = _random_batch(step, pairs, num_classes, config.view.size)
    _train(step, batch, STEPS_BEFORE if devices else 1)
    a_step = _train(step, batch, 1)
    steps = max(1, math.ceil(seconds / a_step))
    return NetworkRate(len(batch.images) / _train(step, batch, steps), pairs)


def _step(config: Config, num_classes: int, device: torch.device) -> TrainStep:
    """The run's step; what counts of the classes is their number."""
    group = ProcessGroup(0, 1, device)
    counts = torch.ones(num_classes, dtype=torch.int64, device=device)
    objective = build_objective(config.method, counts, config.glmc)
    model = build_placed_model(config, num_classes, group)
    model.train_layers(objective.trained_layers)
    return build_step(config, model, objective, group)


def _random_batch(step: TrainStep, pairs: int, num_classes: int, size: int) -> Batch:
    """Images of the precision that the loader makes."""
    views, device = step.objective.views, step.device
    dtype = step.precision if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((views * pairs, 3, size, size), generator=generator)
    label_a, label_b = torch.randint(num_classes, (2, pairs), generator=generator).to(device)
    lam = torch.rand((views, pairs), generator=generator).to(device)
    return Batch(images.to(device, dtype, memory_format=torch.channels_last), label_a, label_b, lam)


def _train(step: TrainStep, batch: Batch, steps: int) -> float:
    """Train; returns seconds a step, the device's work included."""
    alpha, metrics = torch.full((), 0.5, device=step.device), MeanMetrics()
    start = perf_counter()
    for _ in range(steps):
        metrics.add(step(batch, alpha), step.guard.good)
    if step.device.type == "cuda":
        torch.cuda.synchronize(step.device)
    return (perf_counter() - start) / steps
