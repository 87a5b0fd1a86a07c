"""One step: precision, which weights it moves, and the means that are logged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pipelines.batch import Batch
from pipelines.user_error import UserError
from training.model import LongTailModel, build_model
from training.objectives import GlmcSettings, build_objective
from training.process_group import ProcessGroup
from training.step import MeanMetrics, TrainStep, choose_precision

CPU = torch.device("cpu")
ALONE = ProcessGroup(0, 1, CPU)
CLASSES, PAIRS = 5, 6
LR, DECAY = 0.1, 0.01


def make_step(method: str, precision: torch.dtype = torch.float32) -> tuple[LongTailModel, TrainStep]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("resnet8", CLASSES, width=4, projection_dim=7)
    objective = build_objective(method, torch.tensor([40, 20, 9, 3, 1]), GlmcSettings())
    model.train_layers(objective.trained_layers)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LR, momentum=0.9, weight_decay=DECAY)
    step = TrainStep(model, objective, optimizer, objective.views, CPU, precision)
    return model, step


def make_batch(views: int) -> Batch:
    draws = torch.Generator().manual_seed(1)
    return Batch(
        images=torch.randn(views * PAIRS, 3, 12, 8, generator=draws).to(memory_format=torch.channels_last),
        label_a=torch.randint(CLASSES, (PAIRS,), generator=draws),
        label_b=torch.randint(CLASSES, (PAIRS,), generator=draws),
        lam=torch.rand(views, PAIRS, generator=draws) if views == 2 else torch.ones(1, PAIRS),
    )


def test_precision_of_a_cpu() -> None:
    assert choose_precision("auto", CPU) == torch.float32
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    with pytest.raises(UserError, match=r"run\.precision fp16 needs a GPU; use float32 or bf16"):
        choose_precision("fp16", CPU)


def test_bf16_is_the_default_only_where_the_gpu_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch stores bf16 on a V100 or T4 (7.0, 7.5), too, but computes in float32 there, and slowly."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    for major, expected in ((7, torch.float32), (8, torch.bfloat16), (9, torch.bfloat16)):
        properties = SimpleNamespace(major=major)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, p=properties: p)
        assert choose_precision("auto", torch.device("cuda", 0)) == expected


@pytest.mark.parametrize("method", ["ce", "glmc"])
def test_a_bf16_step_is_near_the_float32_step(method: str) -> None:
    losses = {}
    for precision in (torch.float32, torch.bfloat16):
        model, step = make_step(method, precision)
        losses[precision] = step(make_batch(step.passes), torch.tensor(0.75))
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert losses[torch.float32].keys() == losses[torch.bfloat16].keys()
    for name, exact in losses[torch.float32].items():
        rounded = losses[torch.bfloat16][name]
        assert rounded.dtype == torch.float32
        assert not rounded.requires_grad
        assert rounded != exact, "bf16 is not float32"
        assert rounded.item() == pytest.approx(exact.item(), rel=0.05, abs=0.05)


def moved(method: str, alpha: float) -> dict[str, bool]:
    """Whether a step changed each linear layer, and the backbone."""
    model, step = make_step(method)
    before = {name: value.clone() for name, value in model.named_parameters()}
    step(make_batch(step.passes), torch.tensor(alpha))
    changed: dict[str, bool] = {}
    for name, value in model.named_parameters():
        layer = name.split(".")[0]
        changed[layer] = changed.get(layer, False) or not torch.equal(value, before[name])
    return changed


def test_cross_entropy_moves_the_backbone_and_its_head_only() -> None:
    assert moved("ce", 1.0) == {
        "backbone": True,
        "conventional_head": True,
        "rebalanced_head": False,
        "projection": False,
        "predictor": False,
    }


def test_glmc_moves_every_layer() -> None:
    assert set(moved("glmc", 0.5).values()) == {True}


def test_in_epoch_0_of_glmc_the_rebalanced_head_only_decays() -> None:
    model, step = make_step("glmc")
    head = model.rebalanced_head
    before = head.weight.detach().clone()
    conventional = model.conventional_head.weight.detach().clone()
    step(make_batch(2), torch.tensor(1.0))
    torch.testing.assert_close(head.weight.detach(), before * (1 - LR * DECAY), rtol=1e-6, atol=1e-9)
    assert (model.conventional_head.weight - conventional * (1 - LR * DECAY)).abs().max() > 1e-3


def test_a_step_is_gradient_descent_on_the_loss() -> None:
    """The first step moves every weight by -lr (gradient + decay · weight), worked out without `TrainStep`."""
    model, step = make_step("glmc")
    twin, other = make_step("glmc")
    batch, alpha = make_batch(2), torch.tensor(0.5)
    other.objective.loss(twin(batch.images, 2), batch, alpha)["loss"].backward()
    step(batch, alpha)
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert theirs.grad is not None
        expected = theirs - LR * (theirs.grad + DECAY * theirs)
        torch.testing.assert_close(ours, expected, msg=name)


def test_gradients_do_not_pile_up_over_steps() -> None:
    model, step = make_step("ce")
    batch = make_batch(1)
    step(batch, torch.tensor(1.0))
    twin, other = make_step("ce")
    twin.load_state_dict(model.state_dict())
    other.objective.loss(twin(batch.images, 1), batch, torch.tensor(1.0))["loss"].backward()
    step(batch, torch.tensor(1.0))
    assert model.conventional_head.weight.grad is not None
    torch.testing.assert_close(model.conventional_head.weight.grad, twin.conventional_head.weight.grad)


def test_means_are_over_the_steps_since_the_last_reading() -> None:
    """A process by itself; test_ranks.py has several."""
    metrics = MeanMetrics()
    first = {"loss": torch.tensor(1.0), "part": torch.tensor(-2.0)}
    metrics.add(first)
    metrics.add({"loss": torch.tensor(2.5), "part": torch.tensor(0.5)})
    assert metrics.read(ALONE) == {"loss": 1.75, "part": -0.75}
    assert first["loss"] == 1.0, "the caller's tensor is not summed into"
    metrics.add({"loss": torch.tensor(8.0), "part": torch.tensor(3.0)})
    assert metrics.read(ALONE) == {"loss": 8.0, "part": 3.0}


def test_means_do_not_tell_where_a_run_was_stopped() -> None:
    """The checkpoint between any two of 50 steps leads to the same bits, and bad steps are in none of the means."""
    rng = torch.Generator().manual_seed(3)
    losses = 10 ** torch.empty(50).uniform_(-3, 3, generator=rng)
    good = torch.rand(50, generator=rng) < 0.8
    metrics = MeanMetrics()
    for loss, counts in zip(losses, good, strict=True):
        metrics.add({"loss": loss}, counts)
        saved, metrics = metrics.state_dict(ALONE), MeanMetrics()
        metrics.load_state_dict(saved)
    exact = sum(loss for loss, counts in zip(losses.tolist(), good.tolist(), strict=True) if counts) / int(
        good.sum()
    )
    assert metrics.read(ALONE) == {"loss": torch.tensor(exact).item()}
    assert metrics.left_out == 50 - int(good.sum())
