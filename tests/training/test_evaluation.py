"""Counts of an evaluation against a plain loop, padding left out, and the spread of the projection."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.batch import EvalBatch
from training.backbones import Backbone
from training.evaluation import EvalCounts, evaluate, head_figures
from training.model import LongTailModel
from training.process_group import ProcessGroup

CPU = torch.device("cpu")
ALONE = ProcessGroup(0, 1, CPU)
CLASSES, FEATURES = 4, 12


class Pixels(nn.Module):
    """The features of a 3 x 2 x 2 image are its pixels; BatchNorm shows the mode that the model is in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images).flatten(1)


def make_model(projection_dim: int = FEATURES) -> LongTailModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LongTailModel(Backbone(Pixels(), FEATURES, projection_dim, False), CLASSES, projection_dim)


def make_batches(images: Tensor, labels: Tensor, counted: Tensor, size: int) -> list[EvalBatch]:
    return [
        EvalBatch(images[i : i + size], labels[i : i + size], counted[i : i + size])
        for i in range(0, len(images), size)
    ]


def run(model: LongTailModel, batches: list[EvalBatch]) -> EvalCounts:
    autocast = torch.autocast("cpu", enabled=False)
    return evaluate(model, batches, ("conventional", "rebalanced"), ALONE, autocast)


def test_counts_equal_a_plain_loop_and_leave_padding_out() -> None:
    draws = torch.Generator().manual_seed(2)
    images = torch.randn(23, 3, 2, 2, generator=draws)
    labels = torch.randint(CLASSES - 1, (23,), generator=draws)  # the last class has no image
    counted = torch.rand(23, generator=draws) < 0.7
    model = make_model()
    counts = run(model, make_batches(images, labels, counted, 5))
    scale = (1 + 1e-5) ** -0.5  # of BatchNorm in evaluation, before any training
    correct = {"conventional": [0] * CLASSES, "rebalanced": [0] * CLASSES}
    total = [0] * CLASSES
    for image, label, counts_here in zip(images, labels.tolist(), counted.tolist(), strict=True):
        if not counts_here:
            continue
        total[label] += 1
        for head in correct:
            layer = model.get_submodule(f"{head}_head")
            logits = layer.weight @ (image.flatten() * scale) + layer.bias
            correct[head][label] += int(logits.argmax()) == label
    assert 0 < sum(total) < 23
    assert total[-1] == 0
    for head, sums in counts.heads.items():
        assert sums.classes[0].tolist() == correct[head]
        assert sums.classes[2].tolist() == total
        assert sums.bins.sum(0)[:2].tolist() == [sum(total), sum(correct[head])]
    assert correct["conventional"] != correct["rebalanced"]


def test_the_model_is_left_as_it_was() -> None:
    images = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    batches = make_batches(images, torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.bool), 4)
    for training in (True, False):
        model = make_model().train(training)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        run(model, batches)
        assert model.training is training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())


def spread_of(directions: Tensor, counted: Tensor | None = None) -> float:
    """The spread where the projection of image i is `directions[i]` (n, 12), or a multiple of it."""
    model = make_model()
    with torch.no_grad():
        model.projection.weight.copy_(torch.eye(FEATURES))
        model.projection.bias.zero_()
    images, n = directions.view(-1, 3, 2, 2), len(directions)
    counted = torch.ones(n, dtype=torch.bool) if counted is None else counted
    batches = make_batches(images, torch.zeros(n, dtype=torch.int64), counted, 100)
    return run(model, batches).projection_spread


def test_spread_is_0_where_all_images_collapse_on_one_direction() -> None:
    lengths = torch.linspace(0.5, 9, 150)[:, None]
    direction = torch.randn(FEATURES, generator=torch.Generator().manual_seed(4))
    assert spread_of(lengths * direction) == pytest.approx(0, abs=1e-3)


def test_spread_is_about_1_where_directions_cover_the_sphere() -> None:
    directions = torch.randn(3000, FEATURES, generator=torch.Generator().manual_seed(5))
    assert spread_of(directions) == pytest.approx(1, abs=0.02)
    assert spread_of(100 * directions) == pytest.approx(1, abs=0.02)


def test_spread_by_hand_with_padding_left_out() -> None:
    """Two opposite directions along one axis of 12: standard deviation 1 there, 0 elsewhere: √12 / 12."""
    axis = torch.eye(FEATURES)[2]
    directions = torch.stack([axis, -3 * axis, torch.ones(FEATURES)])
    assert spread_of(directions, torch.tensor([True, True, False])) == pytest.approx(12**-0.5, abs=1e-6)
    assert spread_of(directions) != pytest.approx(12**-0.5, abs=0.01)


def test_figures_of_a_head_are_plain_values_and_fit_together() -> None:
    draws = torch.Generator().manual_seed(6)
    images, labels = torch.randn(80, 3, 2, 2, generator=draws), torch.arange(80) % CLASSES
    counts = run(make_model(), make_batches(images, labels, torch.ones(80, dtype=torch.bool), 9))
    figures = head_figures(counts.heads["rebalanced"], np.array([300, 90, 30, 4]))
    assert json.loads(json.dumps(figures)) == figures
    assert figures["all"] == pytest.approx(figures["macro"])
    assert figures["shifted"]["uniform"] == pytest.approx(figures["macro"])
    assert figures["worst"] == min(figures["per_class"])
    assert 0 < figures["calibration_error"] < 1
    assert next(iter(figures["shifted"])) == "forward10"  # 20 test images a class
