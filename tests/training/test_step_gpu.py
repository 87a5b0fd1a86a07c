"""On a GPU: a step does not wait for the device, and every precision, implementation and mode trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from pipelines.batch import Batch
from training.fast_kernels import compile_model, measure_cudnn_kernels
from training.model import build_model
from training.objectives import GlmcSettings, build_objective
from training.optimizer import Implementation, build_sgd
from training.process_group import ProcessGroup
from training.step import MeanMetrics, TrainStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # Inductor's own
]

CLASSES, PAIRS = 5, 8
ALONE = ProcessGroup(0, 1, torch.device("cuda", 0))


@contextmanager
def no_waiting() -> Iterator[None]:
    """PyTorch raises an error wherever the host would wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def make_step(
    precision: torch.dtype, implementation: Implementation = "auto", mode: str | None = None, parts: int = 1
) -> TrainStep:
    device = torch.device("cuda", 0)
    measure_cudnn_kernels(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("resnet8", CLASSES, width=8, projection_dim=16)
    model = model.to(device).to(memory_format=torch.channels_last)
    objective = build_objective("glmc", torch.tensor([40, 20, 9, 3, 1], device=device), GlmcSettings())
    optimizer = build_sgd(
        model.parameters(), implementation, precision, lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    return TrainStep(compile_model(model, mode), objective, optimizer, 2, device, precision, parts)


def make_batch() -> Batch:
    draws = torch.Generator().manual_seed(1)
    return Batch(
        images=torch.randn(2 * PAIRS, 3, 32, 32, generator=draws).to(memory_format=torch.channels_last),
        label_a=torch.randint(CLASSES, (PAIRS,), generator=draws),
        label_b=torch.randint(CLASSES, (PAIRS,), generator=draws),
        lam=torch.rand(2, PAIRS, generator=draws),
    ).to(torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("precision", "implementation", "mode"),
    [
        (torch.float32, "foreach", None),
        (torch.float32, "fused", None),
        (torch.float16, "foreach", None),
        (torch.bfloat16, "foreach", None),
        (torch.bfloat16, "fused", None),
        (torch.bfloat16, "fused", "default"),
        (torch.bfloat16, "fused", "reduce-overhead"),
    ],
)
def test_a_step_does_not_wait_for_the_device(
    precision: torch.dtype, implementation: Implementation, mode: str | None
) -> None:
    step, batch, alpha = (
        make_step(precision, implementation, mode),
        make_batch(),
        torch.zeros((), device="cuda"),
    )
    metrics = MeanMetrics()
    for _ in range(6):  # compiles, times cuDNN's algorithms, captures
        metrics.add(step(batch, alpha))
    first = metrics.read(ALONE)
    with no_waiting():
        for _ in range(5):
            metrics.add(step(batch, alpha.fill_(0.5)))
    assert 0 < metrics.read(ALONE)["loss"] < first["loss"] + 5


def test_accumulation_does_not_wait_for_the_device() -> None:
    step, batch, alpha = make_step(torch.bfloat16, parts=2), make_batch(), torch.ones((), device="cuda")
    for _ in range(3):
        step(batch, alpha)
    with no_waiting():
        step(batch, alpha)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_is_learnt_by_heart(precision: torch.dtype) -> None:
    step, batch, alpha = make_step(precision), make_batch(), torch.ones((), device="cuda")
    first = step(batch, alpha)["loss_conventional"].item()
    for _ in range(60):
        last = step(batch, alpha)["loss_conventional"].item()
    assert last < 0.8 * first
    assert all(parameter.isfinite().all() for parameter in step.model.parameters())


def test_an_overflow_in_the_first_fp16_step_leaves_the_weights_alone() -> None:
    """The scale begins at 65,536, and one of the images makes the loss overflow with it."""
    step, batch, alpha = make_step(torch.float16), make_batch(), torch.ones((), device="cuda")
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    batch.images[0] *= 1e4
    step(batch, alpha)
    assert step.loss_scale.factor == 32768
    for parameter, old in zip(step.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    batch.images[0] /= 1e4
    for _ in range(10):
        step(batch, alpha)
    assert all(parameter.isfinite().all() for parameter in step.model.parameters())


@pytest.mark.parametrize(
    ("precision", "fused"), [(torch.bfloat16, True), (torch.float32, True), (torch.float16, False)]
)
def test_fused_is_the_default_where_it_is_safe(precision: torch.dtype, fused: bool) -> None:
    (group,) = make_step(precision).optimizer.param_groups
    assert bool(group["fused"]) == fused


def test_every_mode_computes_the_same_step() -> None:
    """In float32: compiled kernels round otherwise, and that is all."""
    torch.backends.cudnn.allow_tf32, before = False, torch.backends.cudnn.allow_tf32
    try:
        losses = {}
        for mode in (None, "default", "reduce-overhead"):
            step, batch, alpha = (
                make_step(torch.float32, mode=mode),
                make_batch(),
                torch.ones((), device="cuda"),
            )
            losses[mode] = [step(batch, alpha)["loss"].item() for _ in range(4)]
    finally:
        torch.backends.cudnn.allow_tf32 = before
    for each in losses.values():
        assert each == pytest.approx(losses[None], rel=1e-3)
