"""Where the time of a step goes, measured: data, forward, backward, optimizer, by events on the device.

On a GPU a phase is the time between two events on the training stream, so that a wait of the device for the host is
in the phase that it waited for. On a CPU it is the host's clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor

from pipelines.batch import Batch
from training.step import StepInput, TrainStep

PHASES = ("data", "forward", "backward", "optimizer")


class PhasedStep(TrainStep):
    """The same step, marking the end of each phase."""

    def begin(self) -> None:
        """Set the first mark of all."""
        self.marks = [self._mark()]

    def __call__(self, batch: StepInput, alpha: Tensor) -> dict[str, Tensor]:
        """As `TrainStep`; making the batch on the device counts as data."""
        made = batch if isinstance(batch, Batch) else batch()
        self.marks.append(self._mark())
        metrics = super().__call__(made, alpha)
        self.marks.append(self._mark())
        return metrics

    def losses(self, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        """As `TrainStep`."""
        losses = super().losses(batch, alpha)
        self.marks.append(self._mark())
        return losses

    def accumulate(self, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        """As `TrainStep`."""
        metrics = super().accumulate(batch, alpha)
        self.marks.append(self._mark())
        return metrics

    def _mark(self) -> torch.cuda.Event | float:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def phase_milliseconds(
    step: TrainStep, batches: Iterator[StepInput], alpha: Tensor, steps: int
) -> dict[str, list[float]]:
    """Milliseconds of each phase in each of `steps` steps; one wait for the device, at the end."""
    assert step.micro_batches == 1
    phased = PhasedStep(**{each.name: getattr(step, each.name) for each in fields(TrainStep) if each.init})
    phased.begin()
    for _ in range(steps):
        phased(next(batches), alpha)
    if step.device.type == "cuda":
        torch.cuda.synchronize(step.device)
    spans = [_milliseconds(a, b) for a, b in zip(phased.marks, phased.marks[1:], strict=False)]
    assert len(spans) == steps * len(PHASES)
    return {phase: spans[place :: len(PHASES)] for place, phase in enumerate(PHASES)}


def _milliseconds(start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float) and isinstance(end, float)
        return 1000 * (end - start)
    return start.elapsed_time(end)
