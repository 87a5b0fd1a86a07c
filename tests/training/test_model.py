"""The layers behind the backbone: precision, BatchNorm of one and two passes, compilation, DDP."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipelines.user_error import UserError
from training.model import LINEAR_LAYERS, LongTailModel, Outputs, build_model


def small_model(seed: int = 0) -> LongTailModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model("resnet8", num_classes=7, width=4, projection_dim=5)


def make_images(rows: int) -> torch.Tensor:
    """Two views of different statistics."""
    images = torch.randn(rows, 3, 12, 8, generator=torch.Generator().manual_seed(1))
    images[rows // 2 :] = images[rows // 2 :] * 2 + 1
    return images.to(memory_format=torch.channels_last)


def test_outputs_are_linear_functions_of_the_features() -> None:
    model = small_model().eval()
    images = make_images(6)
    outputs, features = model(images), model.features(images)
    assert [tuple(o.shape) for o in outputs] == [(6, 7), (6, 7), (6, 5), (6, 5)]
    weights = {name: model.get_submodule(name) for name in LINEAR_LAYERS}
    z = features @ weights["projection"].weight.T + weights["projection"].bias
    for ours, head, x in (
        (outputs.conventional, "conventional_head", features),
        (outputs.rebalanced, "rebalanced_head", features),
        (outputs.projection, "projection", features),
        (outputs.prediction, "predictor", z),
    ):
        torch.testing.assert_close(ours, x @ weights[head].weight.T + weights[head].bias)
    assert outputs.logits("conventional") is outputs.conventional
    assert outputs.logits("rebalanced") is outputs.rebalanced


def test_linear_layers_work_in_float32_under_autocast() -> None:
    model = small_model().eval()
    images = make_images(6)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, features = model(images), model.features(images)
        assert F.conv2d(images, model.backbone.conv1.weight).dtype == torch.bfloat16
    assert features.dtype == torch.float32
    assert torch.equal(features, features.bfloat16().float()), "the backbone's features are bf16 values"
    assert {o.dtype for o in outputs} == {torch.float32}
    head = model.conventional_head
    assert torch.equal(outputs.conventional, F.linear(features, head.weight, head.bias))


def batch_norm_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if "running" in name or "num" in name}


def test_two_passes_are_two_forwards_with_statistics_of_their_own() -> None:
    once, twice = small_model(), small_model()
    images = make_images(10)
    ours = once(images, passes=2)
    first, second = twice(images[:5]), twice(images[5:])
    for name, a, b, c in zip(Outputs._fields, ours, first, second, strict=True):
        torch.testing.assert_close(a, torch.cat([b, c]), msg=lambda m, name=name: f"{name}: {m}")
    buffers, expected = batch_norm_buffers(once), batch_norm_buffers(twice)
    assert buffers.keys() == expected.keys()
    for name in buffers:
        torch.testing.assert_close(buffers[name], expected[name])
    assert buffers["backbone.bn1.num_batches_tracked"] == 2


def test_one_pass_is_another_function_and_updates_once() -> None:
    model, other = small_model(), small_model()
    images = make_images(10)
    joint, split = model(images, passes=1), other(images, passes=2)
    assert (joint.conventional - split.conventional).abs().max() > 0.01
    assert batch_norm_buffers(model)["backbone.bn1.num_batches_tracked"] == 1


def test_the_number_of_passes_makes_no_difference_in_evaluation() -> None:
    model = small_model().eval()
    images = make_images(10)
    torch.testing.assert_close(model(images, passes=2), model(images, passes=1))


def test_an_odd_batch_has_no_two_views() -> None:
    with pytest.raises(AssertionError, match="9 images do not make 2 equal views"):
        small_model()(make_images(9), passes=2)


def test_initial_weights_follow_the_seed_alone() -> None:
    first, again, other = small_model(3), small_model(3), small_model(4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.predictor.weight, other.predictor.weight)


@pytest.mark.parametrize(
    ("backbone", "features", "std"),
    [
        ("resnet32", 64, (2 / 64) ** 0.5),  # kaiming_normal_, fan in
        ("resnet18_cifar", 512, (1 / (3 * 512)) ** 0.5),  # PyTorch's default: uniform on ±1/sqrt(fan in)
    ],
)
def test_initial_classifiers(backbone: str, features: int, std: float) -> None:
    torch.manual_seed(0)
    model = build_model(backbone, num_classes=100)
    for head in (model.conventional_head, model.rebalanced_head):
        assert head.weight.shape == (100, features)
        assert head.weight.std().item() == pytest.approx(std, rel=0.03)


def test_projection_width_is_the_official_one_unless_given() -> None:
    with torch.device("meta"):
        widths = [
            build_model(*settings).projection.out_features
            for settings in (("resnet32", 3), ("resnet8", 3), ("resnet50", 3), ("resnet18_cifar", 3))
        ]
        assert widths == [128, 128, 256, 256]
        assert build_model("resnet50", 3, projection_dim=9).predictor.weight.shape == (9, 9)


def test_train_layers_freezes_the_other_linear_layers() -> None:
    model = small_model()
    model.train_layers(("conventional_head",))
    sum(o.sum() for o in model(make_images(4))).backward()
    without = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None}
    assert without == {"rebalanced_head", "projection", "predictor"}
    model.train_layers(LINEAR_LAYERS)
    assert all(p.requires_grad for p in model.parameters())


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(UserError, match="at least one class, not 0"):
        build_model("resnet8", 0)
    with pytest.raises(UserError, match="projection_dim 0 must be at least 1"):
        build_model("resnet8", 3, projection_dim=0)


def test_two_passes_compile_into_one_graph() -> None:
    model = small_model()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    images = make_images(6)
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = compiled(images, passes=2), model(images, passes=2)
    assert isinstance(ours, Outputs)
    torch.testing.assert_close(ours, expected)


def test_ddp_sees_one_forward_of_two_passes(process_group: None) -> None:
    model = small_model()
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    images = make_images(6)
    for module in (model, wrapped):
        outputs = module(images, passes=2)
        assert isinstance(outputs, Outputs)
        sum(o.square().mean() for o in outputs).backward()
    for ours, expected in zip(wrapped.module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
