"""The scale on the device against PyTorch's scaler, which asks the host."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from training.loss_scale import GROWTH_INTERVAL, LossScale

CPU = torch.device("cpu")


def _make(seed: int) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=12).astype(np.float32))
    return torch.nn.Parameter(values[:8].reshape(2, 4).clone()), torch.nn.Parameter(values[8:].clone())


def test_weights_and_scale_are_those_of_pytorchs_scaler() -> None:
    """Over 300 steps, of which a seventh overflow, with a growth every 5 good ones."""
    ours, theirs = _make(1), _make(1)
    sgd, their_sgd = (torch.optim.SGD(each, lr=0.01, momentum=0.9, foreach=True) for each in (ours, theirs))
    scaler = GradScaler("cpu", growth_interval=5)
    scale = LossScale(CPU, enabled=True)
    scales = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loss_scale.GROWTH_INTERVAL", 5)
        for step in range(300):
            overflow = torch.tensor(torch.inf if step % 7 == 3 or step in {100, 101, 102} else 1.0)
            for optimizer, parameters in ((sgd, ours), (their_sgd, theirs)):
                optimizer.zero_grad()
                loss = sum((p * p).sum() for p in parameters) * 0.1 * overflow
                scaled = scale.scale(loss) if optimizer is sgd else scaler.scale(loss)
                scaled.backward()
            scale.unscale(ours)
            good = torch.stack([p.grad.isfinite().all() for p in ours if p.grad is not None]).all()
            scale.update(good)
            if good:
                sgd.step()
            scaler.step(their_sgd)
            scaler.update()
            assert scale.factor.item() == scaler.get_scale(), step
            scales.append(scale.factor.item())
            for a, b in zip(ours, theirs, strict=True):
                assert torch.equal(a, b), step
    assert any(b == 2 * a for a, b in pairwise(scales))
    assert any(b == a / 2 for a, b in pairwise(scales))


def test_a_run_that_goes_on_has_the_scale_and_its_count() -> None:
    first, yes = LossScale(CPU, enabled=True), torch.tensor(True)
    first.update(~yes)
    for _ in range(GROWTH_INTERVAL - 1):
        first.update(yes)
    second = LossScale(CPU, enabled=True)
    second.load_state_dict(first.state_dict())
    for scale in (first, second):
        assert scale.factor == 32768
        scale.update(yes)
        assert scale.factor == 65536
        scale.update(yes)
        assert scale.factor == 65536


def test_the_scale_stays_finite() -> None:
    scale, yes = LossScale(CPU, enabled=True), torch.tensor(True)
    scale.factor.fill_(2.0**127)
    for _ in range(2 * GROWTH_INTERVAL):
        scale.update(yes)
    assert scale.factor == 2.0**127
    scale.update(~yes)
    assert scale.factor == 2.0**126


def test_other_precisions_have_none() -> None:
    (parameter, _), scale = _make(2), LossScale(CPU, enabled=False)
    loss = (parameter**2).sum()
    assert scale.scale(loss) is loss
    loss.backward()
    assert parameter.grad is not None
    before = parameter.grad.clone()
    scale.unscale([parameter])
    scale.update(torch.tensor(False))
    assert torch.equal(parameter.grad, before)
    assert scale.state_dict() == {}
    scale.load_state_dict({})
