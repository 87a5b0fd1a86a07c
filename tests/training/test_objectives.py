"""GLMC's loss against a slow computation with dense one-hot labels in float64, gradients included."""

from __future__ import annotations

from math import log, sqrt

import pytest
import torch
from torch import Tensor

from pipelines.batch import Batch
from pipelines.user_error import UserError
from training.model import Outputs
from training.objectives import METHODS, GlmcSettings, build_objective, class_weights, consistency

COUNTS = [120, 40, 13, 7, 2]
PAIRS, CLASSES, DIMS = 6, 5, 3


def make_batch(lam: Tensor, label_a: list[int], label_b: list[int]) -> Batch:
    images = torch.empty(lam.numel(), 3, 1, 1)
    return Batch(images, torch.tensor(label_a), torch.tensor(label_b), lam)


def make_case(seed: int) -> tuple[Outputs, Batch]:
    """Random outputs, pairs of equal and of different classes, λ by image and view 0 and 1 among them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(columns: int) -> Tensor:
        return (2 * torch.randn(2 * PAIRS, columns, generator=generator)).requires_grad_()

    lam = torch.rand(2, PAIRS, generator=generator)
    lam[0, 0], lam[1, 3] = 0.0, 1.0
    outputs = Outputs(normal(CLASSES), normal(CLASSES), normal(DIMS), normal(DIMS))
    return outputs, make_batch(lam, [0, 1, 2, 3, 4, 0], [0, 3, 2, 0, 1, 4])


def slow_glmc(outputs: Outputs, batch: Batch, alpha: float, settings: GlmcSettings) -> dict[str, Tensor]:
    """The loss image by image and class by class, in float64, from dense label and weight vectors."""
    powers = [n ** (-settings.k) for n in COUNTS]
    weights = [p / sum(powers) * CLASSES for p in powers]
    conventional = outputs.conventional.double() * 0
    conventional_loss = rebalanced_loss = conventional.sum()
    for view in range(2):
        for i in range(PAIRS):
            row = view * PAIRS + i
            a, b, lam = int(batch.label_a[i]), int(batch.label_b[i]), float(batch.lam[view, i])
            one_hot_a = [1.0 if c == a else 0.0 for c in range(CLASSES)]
            one_hot_b = [1.0 if c == b else 0.0 for c in range(CLASSES)]
            for c in range(CLASSES):
                label = lam * one_hot_a[c] + (1 - lam) * one_hot_b[c]
                weight = lam * weights[a] * one_hot_a[c] + (1 - lam) * weights[b] * one_hot_b[c]
                coefficient = weight if settings.label_weights == "replace" else weight * label
                f = outputs.conventional[row].double().exp()
                g = outputs.rebalanced[row].double().exp()
                conventional_loss = conventional_loss - label * (f[c] / f.sum()).log() / PAIRS
                rebalanced_loss = rebalanced_loss - coefficient * (g[c] / g.sum()).log() / PAIRS
    if settings.over_views == "mean":
        conventional_loss, rebalanced_loss = conventional_loss / 2, rebalanced_loss / 2
    sim = conventional.sum()
    for i in range(PAIRS):
        for row, other in ((i, PAIRS + i), (PAIRS + i, i)):
            p, z = outputs.prediction[row].double(), outputs.projection[other].detach().double()
            sim = sim - (p * z).sum() / ((p * p).sum().sqrt() * (z * z).sum().sqrt()) / PAIRS
    if settings.balanced:
        total = conventional_loss + settings.gamma * sim
    else:
        total = alpha * conventional_loss + (1 - alpha) * rebalanced_loss + settings.gamma * sim
    return {
        "loss": total,
        "loss_conventional": conventional_loss,
        "loss_rebalanced": rebalanced_loss,
        "loss_consistency": sim,
    }


def gradients(loss: Tensor, outputs: Outputs) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(outputs), allow_unused=True)
    return [torch.zeros_like(o) if g is None else g for o, g in zip(outputs, found, strict=True)]


def assert_equals_slow(settings: GlmcSettings, alpha: float, seed: int) -> None:
    outputs, batch = make_case(seed)
    objective = build_objective("glmc", torch.tensor(COUNTS), settings)
    ours = objective.loss(outputs, batch, torch.tensor(alpha))
    slow = slow_glmc(outputs, batch, alpha, settings)
    assert set(ours) == set(slow) - ({"loss_rebalanced"} if settings.balanced else set())
    for name, value in ours.items():
        assert value.shape == () and value.dtype == torch.float32
        assert value.requires_grad == (name == "loss")
        torch.testing.assert_close(value, slow[name].float(), rtol=1e-5, atol=1e-6)
    for ours_gradient, slow_gradient in zip(
        gradients(ours["loss"], outputs), gradients(slow["loss"], outputs), strict=True
    ):
        torch.testing.assert_close(ours_gradient, slow_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label_weights", ["replace", "multiply"])
@pytest.mark.parametrize("k", [0.0, 1.0, 1.2])
@pytest.mark.parametrize("alpha", [0.0, 0.37, 1.0])
def test_loss_and_gradients_equal_the_dense_float64_computation(
    label_weights: str, k: float, alpha: float
) -> None:
    assert_equals_slow(GlmcSettings(k=k, gamma=4.0, label_weights=label_weights), alpha, seed=int(10 * k))


def test_the_mean_over_views_halves_the_classification_losses_only() -> None:
    assert_equals_slow(GlmcSettings(over_views="mean", label_weights="multiply"), 0.37, seed=3)


def test_a_balanced_set_has_no_rebalanced_loss_whatever_alpha() -> None:
    assert_equals_slow(GlmcSettings(balanced=True), 0.37, seed=4)


def test_random_label_pairs_include_equal_and_different_classes() -> None:
    _, batch = make_case(0)
    same = batch.label_a == batch.label_b
    assert same.any() and not same.all()


@pytest.mark.parametrize(
    ("label_weights", "by_hand"),
    [("replace", 2.3 * log(2)), ("multiply", 1.64 * log(2))],
)
def test_a_case_by_hand(label_weights: str, by_hand: float) -> None:
    # Classes of 6 and 2 images, k = 1: 1/6 + 1/2 = 2/3, so w = (2·(1/6)/(2/3), 2·(1/2)/(2/3)) = (0.5, 1.5).
    # All logits are 0, so -log f = log 2 for both classes. One pair, a = 0, b = 1.
    # MixUp λ = 0.6:  replace   0.6·0.5 + 0.4·1.5         = 0.3  + 0.6  = 0.9
    #                 multiply  0.6²·0.5 + 0.4²·1.5       = 0.18 + 0.24 = 0.42
    # CutMix λ = 0.1: replace   0.1·0.5 + 0.9·1.5         = 0.05 + 1.35 = 1.4
    #                 multiply  0.1²·0.5 + 0.9²·1.5       = 0.005 + 1.215 = 1.22
    # Rebalanced: replace 2.3 log 2; multiply 1.64 log 2. Conventional: log 2 a view, 2 log 2 together.
    # cos(p1, z2) = cos((1, 0), (3, 4)) = 0.6; cos(p2, z1) = cos((1, 1), (0, 2)) = 1/sqrt 2.
    zeros = torch.zeros(2, 2)
    projection = torch.tensor([[0.0, 2.0], [3.0, 4.0]])
    prediction = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    batch = make_batch(torch.tensor([[0.6], [0.1]]), [0], [1])
    objective = build_objective(
        "glmc", torch.tensor([6, 2]), GlmcSettings(gamma=10.0, label_weights=label_weights)
    )
    losses = objective.loss(Outputs(zeros, zeros, projection, prediction), batch, torch.tensor(0.75))
    sim = -0.6 - 1 / sqrt(2)
    assert losses["loss_rebalanced"].item() == pytest.approx(by_hand)
    assert losses["loss_conventional"].item() == pytest.approx(2 * log(2))
    assert losses["loss_consistency"].item() == pytest.approx(sim)
    assert losses["loss"].item() == pytest.approx(0.75 * 2 * log(2) + 0.25 * by_hand + 10 * sim)


@pytest.mark.parametrize("label_weights", ["replace", "multiply"])
def test_a_pair_of_one_class_counts_its_weight_once(label_weights: str) -> None:
    # w of class 1 is 1.5 (above); both views of the pair (1, 1) have the label e_1: 2 · 1.5 · log 2.
    zeros, ones = torch.zeros(2, 2), torch.ones(2, 2)
    batch = make_batch(torch.tensor([[0.6], [0.1]]), [1], [1])
    objective = build_objective("glmc", torch.tensor([6, 2]), GlmcSettings(label_weights=label_weights))
    losses = objective.loss(Outputs(zeros, zeros, ones, ones), batch, torch.tensor(0.0))
    assert losses["loss_rebalanced"].item() == pytest.approx(3 * log(2))


def test_the_two_readings_have_different_gradients() -> None:
    outputs, batch = make_case(1)
    found = []
    for label_weights in ("replace", "multiply"):
        settings = GlmcSettings(label_weights=label_weights)
        loss = build_objective("glmc", torch.tensor(COUNTS), settings).loss(outputs, batch, torch.tensor(0.0))
        found.append(gradients(loss["loss"], outputs)[1])
    assert (found[0] - found[1]).abs().max() > 0.01


def test_in_epoch_0_the_rebalanced_head_gets_no_gradient() -> None:
    outputs, batch = make_case(2)
    loss = build_objective("glmc", torch.tensor(COUNTS), GlmcSettings()).loss(
        outputs, batch, torch.tensor(1.0)
    )
    conventional, rebalanced, _, prediction = gradients(loss["loss"], outputs)
    assert rebalanced.abs().max() == 0
    assert conventional.abs().max() > 0 and prediction.abs().max() > 0


def test_consistency_is_lowest_for_equal_directions_and_has_no_gradient_into_the_projection() -> None:
    outputs, _ = make_case(5)
    value = consistency(outputs.projection, outputs.prediction)
    gradient_z, gradient_p = torch.autograd.grad(
        value, [outputs.projection, outputs.prediction], allow_unused=True
    )
    assert gradient_z is None and gradient_p.abs().max() > 0
    z1, z2 = outputs.projection.detach().chunk(2)
    crossed = consistency(outputs.projection, torch.cat([3 * z2, 0.1 * z1]))
    assert crossed.item() == pytest.approx(-2)


def test_autocast_and_half_precision_outputs_are_computed_in_float32() -> None:
    outputs, batch = make_case(6)
    half = Outputs(*(o.detach().bfloat16() for o in outputs))
    objective = build_objective("glmc", torch.tensor(COUNTS), GlmcSettings())
    expected = objective.loss(Outputs(*(o.float() for o in half)), batch, torch.tensor(0.37))
    with torch.autocast("cpu", torch.bfloat16):
        ours = objective.loss(half, batch, torch.tensor(0.37))
    for name, value in ours.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])


def test_cross_entropy_is_torch_s_mean_on_plain_images() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    batch = Batch(torch.empty(7, 3, 1, 1), labels, labels, torch.ones(1, 7))
    objective = build_objective("ce", torch.tensor(COUNTS), GlmcSettings())
    outputs = Outputs(logits, torch.zeros(7, 5), torch.zeros(7, 3), torch.zeros(7, 3))
    losses = objective.loss(outputs, batch, torch.tensor(1.0))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert set(losses) == {"loss"}
    torch.testing.assert_close(losses["loss"], expected)
    (ours,), (theirs,) = (torch.autograd.grad(x, logits) for x in (losses["loss"], expected))
    torch.testing.assert_close(ours, theirs)


def test_class_weights_have_mean_one_and_fall_with_the_count() -> None:
    assert torch.equal(class_weights(torch.tensor(COUNTS), 0.0), torch.ones(5))
    # 1/1280 and 1/5, the extremes of ImageNet-LT, sum to 257/1280: w = 2/257 and 512/257.
    weights = class_weights(torch.tensor([1280, 5]), 1.0)
    assert weights.tolist() == pytest.approx([2 / 257, 512 / 257])
    assert weights.dtype == torch.float32


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(UserError, match="class 2 has no training images"):
        build_objective("glmc", torch.tensor([5, 4, 0, 3, 0]), GlmcSettings())


def test_what_each_method_declares() -> None:
    counts = torch.tensor(COUNTS)
    ce = build_objective("ce", counts, GlmcSettings())
    glmc = build_objective("glmc", counts, GlmcSettings())
    balanced = build_objective("glmc", counts, GlmcSettings(balanced=True))
    assert list(METHODS) == ["ce", "glmc"]
    assert [o.mixed for o in (ce, glmc, balanced)] == [False, True, True]
    assert [o.views for o in (ce, glmc, balanced)] == [1, 2, 2]
    assert [o.cumulative for o in (ce, glmc, balanced)] == [False, True, False]
    heads = [o.inference_head for o in (ce, glmc, balanced)]
    assert heads == ["conventional", "rebalanced", "conventional"]
    assert (ce.trained_heads, balanced.trained_heads) == (("conventional",), ("conventional",))
    assert glmc.trained_heads == ("conventional", "rebalanced")
    assert ce.trained_layers == ("conventional_head",)
    assert glmc.trained_layers == ("conventional_head", "rebalanced_head", "projection", "predictor")
    assert balanced.trained_layers == ("conventional_head", "projection", "predictor")


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"glmc\.k is -0\.1"):
        GlmcSettings(k=-0.1)
    with pytest.raises(UserError, match=r"glmc\.gamma is nan"):
        GlmcSettings(gamma=float("nan"))
    with pytest.raises(UserError, match=r"glmc\.k has no effect with glmc\.balanced"):
        GlmcSettings(k=1.2, balanced=True)
    with pytest.raises(UserError, match=r"glmc\.label_weights has no effect"):
        GlmcSettings(label_weights="multiply", balanced=True)
    with pytest.raises(UserError, match="method 'paco' is not known; choose one of ce, glmc"):
        build_objective("paco", torch.tensor(COUNTS), GlmcSettings())
