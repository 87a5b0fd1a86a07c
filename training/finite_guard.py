"""A step whose loss is not finite leaves the weights alone, and the host learns of it only when it asks.

The decision is made on the device from the summed gradients, which are the same on every rank: a loss that is not
finite anywhere makes them NaN everywhere. Weights, momentum and the model's buffers (BatchNorm's statistics) are then
what they were before the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Rollback:
    """Takes tensors back to an earlier state if a condition on the device says so: no `if` on the host.

    Three kernels for each dtype, whatever the number of tensors; holds a copy of them.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            self._by_dtype[tensor.dtype].append(tensor.detach())  # the same memory, without history
        self._saved: dict[torch.dtype, Tensor] = {}

    def save(self) -> None:
        """Keep the present values."""
        for dtype, tensors in self._by_dtype.items():
            self._saved[dtype] = _in_memory_order(tensors)

    def restore(self, condition: Tensor) -> None:
        """Bring the values of the last `save` back where the 0-dim bool `condition` is true."""
        for dtype, tensors in self._by_dtype.items():
            flat = torch.where(condition, self._saved.pop(dtype), _in_memory_order(tensors))
            parts = flat.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(
                tensors,
                [part.as_strided(t.size(), t.stride()) for part, t in zip(parts, tensors, strict=True)],
            )


def _in_memory_order(tensors: list[Tensor]) -> Tensor:
    """One long vector of the values of dense tensors, each in the order in which they lie in memory."""
    return torch.cat([tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors])


class FiniteGuard:
    """Watches over one optimizer: `save` -> forward -> `differentiable` -> backward -> `judge` -> update -> `restore`.

    Momentum is set to zeros, which gives the same first update as none; so there is a state to return to.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, most_in_a_row: int) -> None:
        self.most_in_a_row = most_in_a_row
        """From so many bad steps in a row on every step is bad: nothing moves until the host reads and stops."""
        self._optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        device = self._parameters[0].device
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        """0-dim int64 on the device: bad steps in a row up to now; written in place, saved in checkpoints."""
        self.good = torch.ones((), dtype=torch.bool, device=device)
        """0-dim bool on the device: whether the latest step was good; written in place."""
        self._found = torch.zeros((), device=device)
        # the fused kernel can be told on the device to do nothing; the others are undone
        self._is_fused = bool(optimizer.defaults.get("fused"))
        if optimizer.defaults["momentum"]:
            for parameter in self._parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self._buffers = list(model.buffers())
        self._rollback = Rollback([])

    def save(self) -> None:
        """Keep what the step may not change if it is bad. Before the forward pass, which moves the buffers."""
        self._rollback = Rollback([*self._buffers, *([] if self._is_fused else self._weights())])
        self._rollback.save()

    def differentiable(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on: itself, or NaN in value and gradient where this step must not count."""
        may_count = loss.detach().isfinite() & (self.in_a_row < self.most_in_a_row)
        return loss * torch.where(may_count, 1.0, torch.nan)

    def judge(self) -> None:
        """Decide from the gradients, summed over ranks, whether the step is good, and count."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self.good.copy_(torch.nn.utils.get_total_norm(gradients).isfinite())
        self.in_a_row.add_(1).mul_(~self.good)
        if self._is_fused:
            self._optimizer.found_inf = self._found.copy_(~self.good)  # type: ignore[attr-defined]

    def restore(self) -> None:
        """Undo a bad step. After the update."""
        self._rollback.restore(~self.good)

    def _weights(self) -> list[Tensor]:
        state = self._optimizer.state
        momentum = [state[p]["momentum_buffer"] for p in self._parameters if "momentum_buffer" in state[p]]
        return [*self._parameters, *momentum]
