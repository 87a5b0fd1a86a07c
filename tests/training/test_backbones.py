"""Parameter counts, feature maps, memory layout and settings of every backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.user_error import UserError
from training.backbones import BACKBONES, build_backbone
from training.model import build_model

# Parameters by torchvision's documentation, and those of its classifier of 1000 classes, which is removed.
RESNET18, RESNET34, RESNET50, RESNEXT50 = 11_689_512, 21_797_672, 25_557_032, 25_028_904
FC_512, FC_2048 = 512 * 1000 + 1000, 2048 * 1000 + 1000
# The CIFAR stem has 3x3 in place of 7x7 kernels.
STEM = 3 * 64 * (7 * 7 - 3 * 3)


def cifar_family(width: int, blocks: int) -> int:
    """Parameters of the network of He et al., section 4.2, without its classifier."""
    convolutions = 9 * 3 * width
    batch_norms = 2 * width
    channels = width
    for out in (width, 2 * width, 4 * width):
        convolutions += 9 * channels * out + (2 * blocks - 1) * 9 * out * out
        batch_norms += 2 * blocks * 2 * out
        channels = out
    return convolutions + batch_norms


def heads(features: int, classes: int, projection: int) -> int:
    """Parameters of two classifiers, projection and predictor, with biases."""
    return 2 * (features + 1) * classes + (features + 1) * projection + (projection + 1) * projection


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "width", "classes", "expected", "total"),
    [
        ("resnet50", None, 1000, RESNET50 - FC_2048 + heads(2048, 1000, 256), 28_196_368),
        ("resnext50_32x4d", None, 1000, RESNEXT50 - FC_2048 + heads(2048, 1000, 256), 27_668_240),
        ("resnext50_32x4d", None, 8142, RESNEXT50 - FC_2048 + heads(2048, 8142, 256), 56_936_156),
        ("resnet18_cifar", None, 100, RESNET18 - FC_512 - STEM + heads(512, 100, 256), 11_468_552),
        ("resnet34_cifar", None, 100, RESNET34 - FC_512 - STEM + heads(512, 100, 256), 21_576_712),
        ("resnet50_cifar", None, 100, RESNET50 - FC_2048 - STEM + heads(2048, 100, 256), 24_500_488),
        ("resnet32", None, 100, cifar_family(16, 5) + heads(64, 100, 128), 501_336),
        ("resnet32", 16, 10, cifar_family(16, 5) + heads(64, 10, 128), 489_636),
        ("resnet32", 64, 100, cifar_family(64, 5) + heads(256, 100, 128), 7_484_424),
        ("resnet8", 16, 10, cifar_family(16, 1) + heads(64, 10, 128), 100_772),
    ],
)
def test_parameter_counts(name: str, width: int | None, classes: int, expected: int, total: int) -> None:
    with torch.device("meta"):
        model = build_model(name, classes, width)
    assert num_parameters(model) == expected == total


def test_the_standard_resnet32_has_its_known_size() -> None:
    # 464,154 with a classifier of 10 classes (65 x 10), as listed for He et al.'s network with option A.
    assert num_parameters(build_backbone("resnet32", 16).network) == 464_154 - 650


@pytest.mark.parametrize(
    ("name", "image", "last_stage", "feature_map"),
    [
        ("resnet50", (224, 192), "layer4", (2048, 7, 6)),
        ("resnext50_32x4d", (224, 192), "layer4", (2048, 7, 6)),
        ("resnet18_cifar", (32, 24), "layer4", (512, 4, 3)),
        ("resnet34_cifar", (32, 24), "layer4", (512, 4, 3)),
        ("resnet50_cifar", (32, 24), "layer4", (2048, 4, 3)),
        ("resnet32", (32, 24), "layer3", (64, 8, 6)),
        ("resnet8", (32, 24), "layer3", (64, 8, 6)),
    ],
)
def test_feature_maps(
    name: str, image: tuple[int, int], last_stage: str, feature_map: tuple[int, ...]
) -> None:
    seen = []
    with torch.device("meta"):
        backbone = build_backbone(name)
        backbone.network.get_submodule(last_stage).register_forward_hook(
            lambda _module, _inputs, out: seen.append(tuple(out.shape))
        )
        features = backbone.network(torch.empty(2, 3, *image))
    assert seen == [(2, *feature_map)]
    assert features.shape == (2, feature_map[0]) == (2, backbone.feature_dim)


@pytest.mark.parametrize("name", BACKBONES)
def test_activations_stay_channels_last(name: str) -> None:
    network = build_backbone(name).network.to(memory_format=torch.channels_last)
    seen = 0

    def check(module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal seen
        for x in (*inputs, out):
            assert min(x.shape[1:]) > 1, "a shape that is in both layouts shows nothing"
            assert x.is_contiguous(memory_format=torch.channels_last), module
        seen += 1

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(check)
    images = torch.rand(2, 3, 48, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        network(images)
    assert seen == sum(isinstance(m, nn.Conv2d | nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "resnet18_cifar"])
def test_no_residual_starts_at_zero(name: str) -> None:
    for module in build_backbone(name).network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))


def test_the_cifar_stem_starts_from_kaiming_normal_with_fan_out() -> None:
    # Fan out is 64 · 9 = 576: standard deviation 0.0589; PyTorch's own default would be 0.111.
    torch.manual_seed(0)
    stem = build_backbone("resnet18_cifar").network.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    assert stem.weight.std().item() == pytest.approx(0.0589, rel=0.05)


def test_settings_without_effect_or_sense_are_refused() -> None:
    with pytest.raises(UserError, match="width 64 has no effect on backbone resnet34_cifar"):
        build_backbone("resnet34_cifar", 64)
    with pytest.raises(UserError, match="width 16 has no effect on backbone resnext50_32x4d"):
        build_backbone("resnext50_32x4d", 16)
    with pytest.raises(UserError, match="width 0 of backbone resnet32 must be at least 1"):
        build_backbone("resnet32", 0)
    with pytest.raises(UserError, match="'resnet101' is not known; choose one of resnet50, resnext50_32x4d"):
        build_backbone("resnet101")
