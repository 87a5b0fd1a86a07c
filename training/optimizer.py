"""SGD as the official code has it, in the implementation that suits the device and the precision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from pipelines.user_error import UserError

Implementation = Literal["auto", "foreach", "fused"]


def build_sgd(
    parameters: Iterable[nn.Parameter],
    implementation: Implementation,
    precision: torch.dtype,
    *,
    lr: float | torch.Tensor,
    momentum: float,
    weight_decay: float,
) -> torch.optim.SGD:
    """SGD over the parameters that have gradients.

    `auto` is fused on a GPU, which reads and writes each weight once, unless the precision is fp16; on a CPU it is
    PyTorch's default. Only the fused implementation reads a learning rate that is a tensor (foreach asks the host for
    its value), so `auto` is fused then on any device.

    Raises:
        UserError: the fused implementation with fp16, which would begin with momentum that nobody has set where the
            first step overflows (PyTorch 2.11 allocates it before it looks).
    """
    if implementation == "fused" and precision == torch.float16:
        raise UserError(
            "optim.implementation fused is not safe with run.precision fp16, whose first step may overflow: "
            "use foreach, or bf16"
        )
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    fits = isinstance(lr, torch.Tensor) or any(parameter.is_cuda for parameter in trained)
    fused = implementation == "fused" or (implementation == "auto" and fits and precision != torch.float16)
    return torch.optim.SGD(
        trained,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        foreach=True if implementation == "foreach" else None,
        fused=True if fused else None,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group, in place where it is a tensor, which a captured graph reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value
