"""SGD in each implementation against its formula, and the learning rate that a captured graph reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.user_error import UserError
from training.optimizer import Implementation, build_sgd, set_learning_rate

MOMENTUM, DECAY = 0.8, 0.03
RATES = (0.1, 0.1, 0.02)
SHAPES = ((3, 5), (7,))


def gradients(step: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=draws) for shape in SHAPES]


def by_formula() -> list[np.ndarray]:
    """b = μ b + (g + decay w), w = w - lr b, in float64."""
    weights = [np.full(shape, 0.5) for shape in SHAPES]
    buffers = [np.zeros(shape) for shape in SHAPES]
    for step, lr in enumerate(RATES):
        for i, gradient in enumerate(gradients(step)):
            buffers[i] = MOMENTUM * buffers[i] + gradient.double().numpy() + DECAY * weights[i]
            weights[i] = weights[i] - lr * buffers[i]
    return weights


@pytest.mark.parametrize(
    ("implementation", "tensor"), [("auto", False), ("foreach", False), ("fused", False), ("auto", True)]
)
def test_every_implementation_is_the_formula(implementation: Implementation, tensor: bool) -> None:
    weights = [nn.Parameter(torch.full(shape, 0.5)) for shape in SHAPES]
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    lr = torch.tensor(RATES[0]) if tensor else RATES[0]
    optimizer = build_sgd(
        [*weights, frozen], implementation, torch.float32, lr=lr, momentum=MOMENTUM, weight_decay=DECAY
    )
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(weights), "what has no gradient is not the optimizer's"
    assert bool(group["fused"]) == (implementation == "fused" or tensor)
    assert bool(group["foreach"]) == (implementation == "foreach")
    for step, rate in enumerate(RATES):
        set_learning_rate(optimizer, rate)
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = gradient
        optimizer.step()
    assert (group["lr"] is lr) == tensor, "a tensor is changed in place: a graph holds on to it"
    for weight, expected in zip(weights, by_formula(), strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-5)


def test_a_checkpoint_keeps_a_learning_rate_that_is_a_tensor(tmp_path: Path) -> None:
    """So a run that goes on has one that its graph can read."""
    optimizers = []
    for _ in range(2):
        weight = nn.Parameter(torch.ones(3))
        weight.grad = torch.ones(3)
        optimizers.append(
            build_sgd([weight], "auto", torch.float32, lr=torch.tensor(0.5), momentum=0.9, weight_decay=0.0)
        )
    before, after = optimizers
    before.step()
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    (group,) = after.param_groups
    assert isinstance(group["lr"], torch.Tensor) and group["fused"]
    set_learning_rate(after, 0.25)
    after.step()
    (weight,) = group["params"]
    torch.testing.assert_close(weight.detach(), torch.full((3,), 1 - 0.25 * 1.9))


def test_fused_with_fp16_is_refused() -> None:
    with pytest.raises(UserError, match=r"optim\.implementation fused is not safe with run\.precision fp16"):
        build_sgd([], "fused", torch.float16, lr=0.1, momentum=0.9, weight_decay=0.0)
