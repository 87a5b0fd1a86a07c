"""What the device can multiply at most, measured; and what a network multiplies for an image."""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TRAINING = 3
"""A backward pass multiplies twice what its forward pass does: gradients of the inputs and of the weights."""
SIDE = {"cuda": 8192, "cpu": 512}
"""Of the square matrices, by the kind of device."""


def matrix_flops_per_second(device: torch.device, dtype: torch.dtype, runs: int = 5) -> list[float]:
    """Floating-point operations a second of one large matrix product, `runs` times; a multiply-add is two."""
    side = SIDE[device.type]
    draws = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn((side, side), device=device, generator=draws).to(dtype) for _ in range(2))
    out, products = torch.empty_like(a), 20
    rates = []
    for run in range(runs + 1):
        _wait(device)
        start = time.perf_counter()
        for _ in range(products):
            torch.mm(a, b, out=out)
        _wait(device)
        if run:  # the first one warms up
            rates.append(products * 2 * side**3 / (time.perf_counter() - start))
    return rates


def training_flops_per_image(model: nn.Module, size: int) -> int:
    """Operations of matrix products and convolutions in a forward and a backward pass of one image.

    `TRAINING` times those of a forward pass, counted by PyTorch: only the gradient of the first layer's input, which
    nobody computes, is too much.
    """
    parameter = next(model.parameters())
    was_training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros((1, 3, size, size), device=parameter.device))
    model.train(was_training)
    return TRAINING * int(counter.get_total_flops())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
