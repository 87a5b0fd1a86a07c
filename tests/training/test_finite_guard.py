"""A step that is not finite changes no weight, momentum or buffer, in any implementation of SGD and on all ranks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.finite_guard import FiniteGuard, Rollback

SGD = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def make(implementation: str, momentum: float = 0.9) -> tuple[nn.Module, torch.optim.SGD]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(30, 4)
        )
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    options: dict[str, Any] = SGD[implementation]
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=0.01, **options)


def images(seed: int) -> Tensor:
    return torch.randn(6, 3, 5, 4, generator=torch.Generator().manual_seed(seed))


def guarded_step(
    model: nn.Module, optimizer: torch.optim.SGD, guard: FiniteGuard, batch: Tensor, spoil: float = 1.0
) -> None:
    guard.save()
    optimizer.zero_grad()
    guard.differentiable(model(batch).square().mean() * spoil).backward()
    guard.judge()
    optimizer.step()
    guard.restore()


def everything(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    state = {f"model {name}": value.clone() for name, value in model.state_dict().items()}
    for i, entry in optimizer.state_dict()["state"].items():
        state |= {f"{name} {i}": value.clone() for name, value in entry.items() if value is not None}
    return state


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("implementation", SGD)
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_good_steps_are_those_without_a_guard(implementation: str, momentum: float) -> None:
    model, optimizer = make(implementation, momentum)
    twin, other = make(implementation, momentum)
    guard = FiniteGuard(model, optimizer, 3)
    for seed in range(4):
        guarded_step(model, optimizer, guard, images(seed))
        other.zero_grad()
        twin(images(seed)).square().mean().backward()
        other.step()
        assert bool(guard.good)
    ours, theirs = everything(model, optimizer), everything(twin, other)
    assert any("momentum" in name for name in ours) == (momentum > 0)
    assert_same(ours, theirs)
    assert guard.in_a_row == 0


@pytest.mark.parametrize("implementation", SGD)
@pytest.mark.parametrize("before", [0, 2], ids=["in the first step", "later"])
@pytest.mark.parametrize("spoil", ["nan image", "inf loss", "nan gradient"])
def test_a_bad_step_changes_nothing_and_the_next_good_one_goes_on(
    implementation: str, before: int, spoil: str
) -> None:
    """As if the bad step had not been."""
    model, optimizer = make(implementation)
    twin, other = make(implementation)
    guard, twin_guard = FiniteGuard(model, optimizer, 3), FiniteGuard(twin, other, 3)
    for seed in range(before):
        guarded_step(model, optimizer, guard, images(seed))
        guarded_step(twin, other, twin_guard, images(seed))
    at_first = everything(model, optimizer)
    bad = images(90)
    if spoil == "nan image":
        bad[2, 1, 3, 2] = torch.nan
    handle = None
    if spoil == "nan gradient":  # of one weight only; the loss is finite
        handle = model[0].weight.register_hook(
            lambda g: torch.where(torch.arange(g.numel()).view(g.shape) == 7, torch.nan, g)
        )
    guarded_step(model, optimizer, guard, bad, torch.inf if spoil == "inf loss" else 1.0)
    if handle is not None:
        handle.remove()
    assert not guard.good
    assert guard.in_a_row == 1
    assert_same(everything(model, optimizer), at_first)
    for seed in (50, 51):
        guarded_step(model, optimizer, guard, images(seed))
        guarded_step(twin, other, twin_guard, images(seed))
    assert guard.in_a_row == 0
    assert_same(everything(model, optimizer), everything(twin, other))


@pytest.mark.parametrize("implementation", SGD)
def test_after_the_limit_no_step_moves_anything(implementation: str) -> None:
    model, optimizer = make(implementation)
    guard = FiniteGuard(model, optimizer, 2)
    guarded_step(model, optimizer, guard, images(0))
    at_first = everything(model, optimizer)
    bad = torch.full_like(images(0), torch.nan)
    for batch, in_a_row in ((bad, 1), (bad, 2), (images(1), 3), (images(2), 4)):
        guarded_step(model, optimizer, guard, batch)
        assert guard.in_a_row == in_a_row
    assert_same(everything(model, optimizer), at_first)


def test_rollback_keeps_every_layout_and_dtype() -> None:
    draws = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(2, 3, 5, 4, generator=draws).to(memory_format=torch.channels_last),
        torch.randn(7, generator=draws),
        torch.randn(3, 4, generator=draws).T,
        torch.tensor(5),
        torch.randn(4, 2, 1, 1, generator=draws).to(memory_format=torch.channels_last),
    ]
    before = [tensor.clone() for tensor in tensors]
    addresses = [tensor.data_ptr() for tensor in tensors]
    for condition in (True, False):
        rollback = Rollback(tensors)
        rollback.save()
        for tensor in tensors:
            tensor.mul_(3)
        rollback.restore(torch.tensor(condition))
        for tensor, earlier in zip(tensors, before, strict=True):
            assert torch.equal(tensor, earlier if condition else 3 * earlier)
    assert [tensor.data_ptr() for tensor in tensors] == addresses


TWO_RANKS = """
import os, sys, torch
from pathlib import Path
from torch import distributed as dist, nn
from training.finite_guard import FiniteGuard

dist.init_process_group("gloo")
rank = dist.get_rank()
seen = {}
for fused in (False, True):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    guard = FiniteGuard(wrapped, optimizer, 9)
    seen[fused] = []
    for step in range(4):
        guard.save()
        optimizer.zero_grad()
        batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(10 * step + rank))
        loss = wrapped(batch).square().mean()
        if step == 2 and rank == 1:
            loss = loss * torch.inf  # on one rank only
        guard.differentiable(loss).backward()
        guard.judge()
        optimizer.step()
        guard.restore()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        seen[fused].append((bool(guard.good), state))
torch.save(seen, Path(sys.argv[1]) / f"{rank}.pt")
dist.barrier()
os._exit(0)  # the destructor of gloo's group may hang
"""


def test_all_ranks_leave_the_step_that_is_bad_on_one(
    tmp_path: Path, start_process: Callable[..., subprocess.Popen[str]]
) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(TWO_RANKS)
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    _, errors = start_process([str(script), str(tmp_path)], module=torchrun).communicate(timeout=900)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for fused in (False, True):
        ours, theirs = (rank[fused] for rank in ranks)
        assert [good for good, _ in ours] == [good for good, _ in theirs] == [True, True, False, True], errors
        for step in range(4):
            for name in (name for name in ours[step][1] if name.endswith(("weight", "bias"))):
                assert torch.equal(ours[step][1][name], theirs[step][1][name])
        for rank in (ours, theirs):
            assert_same(rank[2][1], rank[1][1])
            assert not torch.equal(rank[3][1]["0.weight"], rank[2][1]["0.weight"])
