"""The networks before the heads, by name: images in, one feature vector an image out.

Initial weights are drawn from PyTorch's generator; the caller seeds it. No backbone is pretrained:
long-tailed results are compared from scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision.models import resnet18, resnet34, resnet50, resnext50_32x4d

from pipelines.user_error import UserError
from training.cifar_resnet import CifarResNet


@dataclass(frozen=True)
class Backbone:
    """A network, (N, 3, H, W) images to (N, feature_dim) features, and what the layers after it need."""

    network: nn.Module
    feature_dim: int
    projection_dim: int
    """Width of the projection that GLMC's code uses behind this network."""
    kaiming_linear: bool
    """Whether the linear layers start from `kaiming_normal_` like the convolutions, as in GLMC's ResNet-32;
    otherwise they keep PyTorch's default."""


def build_backbone(name: str, width: int | None = None) -> Backbone:
    """Build the backbone `name`, a key of `BACKBONES`.

    `width` is the number of channels of the first stage, which only resnet32 and resnet8 take; None is their
    default, 16. Raises `UserError` for an unknown name, and for a width below 1 or without effect.
    """
    if name not in BACKBONES:
        raise UserError(f"backbone {name!r} is not known; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name](name, width)


def _torchvision_resnet(name: str, width: int | None) -> Backbone:
    """torchvision's network without its classifier: kaiming_normal_ (fan out), residuals not zeroed."""
    if width is not None:
        raise UserError(
            f"width {width} has no effect on backbone {name}, whose widths are fixed; leave it out"
        )
    network = _TORCHVISION[name.removesuffix("_cifar")](weights=None, zero_init_residual=False)
    feature_dim = network.fc.in_features
    network.fc = nn.Identity()
    return Backbone(network, feature_dim, projection_dim=256, kaiming_linear=False)


def _cifar_stem_resnet(name: str, width: int | None) -> Backbone:
    """torchvision's network with a 3x3 stem of stride 1 and no max-pooling: a 32 x 32 image ends as 4 x 4."""
    backbone = _torchvision_resnet(name, width)
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    # As torchvision starts its other convolutions.
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    backbone.network.conv1 = stem
    backbone.network.maxpool = nn.Identity()
    return backbone


def _cifar_resnet(name: str, width: int | None) -> Backbone:
    """16 channels by default, as everyone but GLMC has it, whose code has 64."""
    channels = 16 if width is None else width
    if channels < 1:
        raise UserError(f"width {width} of backbone {name} must be at least 1; 16 and 64 are in use")
    network = CifarResNet(channels, _BLOCKS_PER_STAGE[name])
    return Backbone(network, 4 * channels, projection_dim=128, kaiming_linear=True)


_TORCHVISION = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnext50_32x4d": resnext50_32x4d,
}
_BLOCKS_PER_STAGE = {"resnet32": 5, "resnet8": 1}

BACKBONES: dict[str, Callable[[str, int | None], Backbone]] = {
    "resnet50": _torchvision_resnet,
    "resnext50_32x4d": _torchvision_resnet,
    "resnet18_cifar": _cifar_stem_resnet,
    "resnet34_cifar": _cifar_stem_resnet,
    "resnet50_cifar": _cifar_stem_resnet,
    "resnet32": _cifar_resnet,
    "resnet8": _cifar_resnet,
}
"""Builders by name, called with (name, width)."""
