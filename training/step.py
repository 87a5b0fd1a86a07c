"""One training step: a batch in, metrics out that stay on the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.batch import Batch
from pipelines.user_error import UserError
from training.finite_guard import FiniteGuard
from training.loss_scale import LossScale
from training.micro_batches import split_pairs
from training.objectives import Objective
from training.process_group import ProcessGroup

StepInput = Batch | Callable[[], Batch]
"""A batch, or what makes one on the device."""

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """`auto`, `float32`, `bf16` or `fp16` -> the dtype of autocast; float32 means none."""
    if setting == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    if setting == "fp16" and device.type == "cpu":
        raise UserError("run.precision fp16 needs a GPU; use float32 or bf16 on a CPU")
    return PRECISIONS[setting]


@dataclass
class TrainStep:
    """Forward, loss, backward, update: one path for every method, precision and number of ranks.

    Nothing in it waits for the device.
    """

    model: nn.Module
    """`LongTailModel`, compiled where the run asks for it, wrapped in DDP where there are several ranks."""
    objective: Objective
    optimizer: torch.optim.Optimizer
    passes: int
    """Passes of the backbone a step, each with BatchNorm statistics of its own."""
    device: torch.device
    precision: torch.dtype
    micro_batches: int = 1
    """Equal parts of the local batch whose gradients are summed before the weights change."""
    max_bad_steps: int = 10
    """Bad steps in a row after which no step changes the weights any more; see `FiniteGuard`."""
    loss_scale: LossScale = field(init=False)
    guard: FiniteGuard = field(init=False)

    def __post_init__(self) -> None:
        self.guard = FiniteGuard(self.model, self.optimizer, self.max_bad_steps)
        self.loss_scale = LossScale(self.device, enabled=self.precision == torch.float16)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass, also of evaluation."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def __call__(self, batch: StepInput, alpha: Tensor) -> dict[str, Tensor]:
        """Update the weights, or leave them alone if the loss is not finite.

        Returns 0-dim float32 tensors, "loss" and its parts.
        """
        self.guard.save()
        # before the forward pass, so that it can have the memory of the old gradients
        self.optimizer.zero_grad(set_to_none=True)
        metrics = self.accumulate(batch if isinstance(batch, Batch) else batch(), alpha)
        self.loss_scale.unscale(self.model.parameters())
        self.guard.judge()
        self.loss_scale.update(self.guard.good)
        self.optimizer.step()
        self.guard.restore()
        return metrics

    def accumulate(self, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        """Add the gradients of a batch to those that there are; returns the losses."""
        if self.micro_batches == 1:
            return self._backward(batch, alpha)
        parts = split_pairs(batch, self.micro_batches)
        losses = []
        for part in parts[:-1]:
            with self._this_rank_alone():
                losses.append(self._backward(part, alpha))
        losses.append(self._backward(parts[-1], alpha))
        return {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}

    def losses(self, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        """The forward pass: "loss", which has a gradient, and its parts."""
        with self.autocast():
            outputs = self.model(batch.images, self.passes)
        return self.objective.loss(outputs, batch, alpha)

    def _backward(self, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        losses = self.losses(batch, alpha)
        share = losses["loss"] if self.micro_batches == 1 else losses["loss"] / self.micro_batches
        self.loss_scale.scale(self.guard.differentiable(share)).backward()
        return {name: value.detach() for name, value in losses.items()}

    def _this_rank_alone(self) -> AbstractContextManager[None]:
        """A backward pass (and its forward) whose gradients stay on this rank until a later one sums them."""
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()


class MeanMetrics:
    """Means over good steps, summed on the device and read rarely, so that no step waits for the host.

    Each rank sums its own; only when they are read or saved do the ranks exchange their sums, all at the same step.
    Sums of float32 losses are exact in float64 (but for millions of steps), so the means, rounded to float32, have the
    same bits wherever a run was stopped in between.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        """0-dim float64 by name, and the number of good steps under the empty name."""
        self.steps = 0
        """Good and bad steps since the last reading."""
        self.left_out = 0
        """Bad steps that the latest reading left out."""

    def add(self, metrics: dict[str, Tensor], good: Tensor | None = None) -> None:
        """Count one step; a bad one, for which the 0-dim bool `good` is false, adds nothing."""
        for name, value in {**metrics, "": torch.ones_like(next(iter(metrics.values())))}.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
            self.sums[name] = self.sums[name] + (value if good is None else torch.where(good, value, 0))
        self.steps += 1

    def read(self, group: ProcessGroup) -> dict[str, float]:
        """The means over ranks and steps since the last reading, none where no step was good.

        All ranks must read at once; waits for the device once.
        """
        sums, steps = self._over_ranks(group), self.steps
        values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        self.sums, self.steps = {}, 0
        good_steps = values.pop("")
        self.left_out = steps - int(good_steps)
        if not good_steps:
            return {}
        return {name: torch.tensor(value / good_steps).item() for name, value in values.items()}

    def state_dict(self, group: ProcessGroup) -> dict[str, Any]:
        """What a run that goes on between two readings needs, on any rank. All ranks must call it at once."""
        return {"sums": self._over_ranks(group), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, on any number of ranks."""
        self.sums, self.steps = dict(state["sums"]), state["steps"]

    def _over_ranks(self, group: ProcessGroup) -> dict[str, Tensor]:
        """The mean of the ranks' sums: local batches are of one size, so it is the sum over the global batches."""
        if not self.sums:
            return {}
        means = group.sum(torch.stack(list(self.sums.values()))) / group.world_size
        return dict(zip(self.sums, means, strict=True))
