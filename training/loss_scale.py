"""The loss scale of fp16, kept on the device: no step asks the host whether its gradients overflowed.

Small gradients vanish in fp16, so the loss is multiplied by a scale before the backward pass, and the gradients are
divided by it after. Where they overflow, `FiniteGuard` undoes the step, and the scale is halved; after
`GROWTH_INTERVAL` good steps in a row it is doubled (Micikevicius et al., ICLR 2018). Numbers and arithmetic are those
of `torch.amp.GradScaler`, which reads the device before foreach SGD may change the weights.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FIRST = 65536.0
GROWTH, BACKOFF = 2.0, 0.5
GROWTH_INTERVAL = 2000
"""Good steps in a row before the scale grows."""


class LossScale:
    """`scale` -> backward -> `unscale` -> the step is judged -> `update`; does nothing unless `enabled`."""

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        self.factor = torch.full((), FIRST, device=device)
        """0-dim float32 on the device, written in place."""
        self.good_steps = torch.zeros((), dtype=torch.int64, device=device)
        """0-dim int64 on the device: good steps in a row since the scale last changed."""

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on."""
        return loss * self.factor if self.enabled else loss

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide the gradients of all parameters, in place."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.enabled and gradients:
            torch._foreach_mul_(gradients, 1 / self.factor)

    def update(self, good: Tensor) -> None:
        """Adapt the scale to what the step was, a 0-dim bool on the device."""
        if not self.enabled:
            return
        self.good_steps.add_(1).mul_(good)
        grows = self.good_steps == GROWTH_INTERVAL
        grown = self.factor * torch.where(grows, GROWTH, 1.0)
        # the largest float32 is no scale that could shrink again
        self.factor.copy_(
            torch.where(good, torch.where(grown.isfinite(), grown, self.factor), self.factor * BACKOFF)
        )
        self.good_steps.mul_(~grows)

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that goes on needs; nothing unless `enabled`."""
        return {"factor": self.factor, "good_steps": self.good_steps} if self.enabled else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict`; one of a run in another precision has nothing to say."""
        if self.enabled and state:
            self.factor.copy_(state["factor"])
            self.good_steps.copy_(state["good_steps"])
