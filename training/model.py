"""A backbone with the four linear layers of GLMC behind it: two classifiers, projection, predictor.

Du et al., CVPR 2023, section 3. Projection and predictor are one linear layer each, without activation. All
four layers work in float32 whatever the precision of the backbone: they are cheap, and the losses behind them
are sensitive.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pipelines.user_error import UserError
from training.backbones import Backbone, build_backbone

InferenceHead = Literal["conventional", "rebalanced"]
LinearLayer = Literal["conventional_head", "rebalanced_head", "projection", "predictor"]
LINEAR_LAYERS: tuple[LinearLayer, ...] = ("conventional_head", "rebalanced_head", "projection", "predictor")


def full_precision(tensor: Tensor) -> Tensor:
    """The same values in float32, or in float64 where they are that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Outputs(NamedTuple):
    """What the model says of B images, in float32. A tuple: DDP and torch.compile look through it."""

    conventional: Tensor
    """(B, C) logits of the head trained by the conventional loss."""
    rebalanced: Tensor
    """(B, C) logits of the head trained by the re-weighted loss."""
    projection: Tensor
    """(B, P), the target of the consistency loss (z)."""
    prediction: Tensor
    """(B, P), the predictor of the projection (p)."""

    def logits(self, head: InferenceHead) -> Tensor:
        """(B, C) logits of the head that an objective declares for inference."""
        return self.conventional if head == "conventional" else self.rebalanced


class LongTailModel(nn.Module):
    """Images (B, 3, H, W) -> `Outputs`."""

    def __init__(self, backbone: Backbone, num_classes: int, projection_dim: int) -> None:
        super().__init__()
        self.backbone = backbone.network
        self.conventional_head = nn.Linear(backbone.feature_dim, num_classes)
        self.rebalanced_head = nn.Linear(backbone.feature_dim, num_classes)
        self.projection = nn.Linear(backbone.feature_dim, projection_dim)
        self.predictor = nn.Linear(projection_dim, projection_dim)
        if backbone.kaiming_linear:
            for layer in (self.conventional_head, self.rebalanced_head, self.projection, self.predictor):
                nn.init.kaiming_normal_(layer.weight)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) float32: the backbone alone, one joint pass."""
        features: Tensor = self.backbone(images)
        return full_precision(features)

    def forward(self, images: Tensor, passes: int = 1) -> Outputs:
        """Run the backbone `passes` times, each on its share of the rows, and all layers behind it once.

        With 2 passes the two views of a batch go through the backbone one after the other: each is normalised
        by BatchNorm statistics of its own, and the running statistics are updated twice (the official code's
        two forwards). It is one call, so that DDP sees one forward. In evaluation the number makes no
        difference.
        """
        assert len(images) % passes == 0, f"{len(images)} images do not make {passes} equal views"
        return self.layers(torch.cat([self.features(view) for view in images.chunk(passes)]))

    def layers(self, features: Tensor) -> Outputs:
        """(B, D) float32 features -> `Outputs`: the four linear layers."""
        with torch.autocast(features.device.type, enabled=False):
            projection = self.projection(features)
            return Outputs(
                conventional=self.conventional_head(features),
                rebalanced=self.rebalanced_head(features),
                projection=projection,
                prediction=self.predictor(projection),
            )

    def train_layers(self, names: Collection[LinearLayer]) -> None:
        """Let the named linear layers (and the backbone) have gradients, the other linear layers none.

        DDP refuses parameters that take no part in the loss, and weight decay would shrink them.
        """
        for name in LINEAR_LAYERS:
            self.get_submodule(name).requires_grad_(name in names)


def build_model(
    backbone: str, num_classes: int, width: int | None = None, projection_dim: int | None = None
) -> LongTailModel:
    """Build the model from settings; `projection_dim` None takes the official width for this backbone.

    Raises `UserError` for a backbone or width that does not exist and for sizes below 1. Initial weights come
    from PyTorch's current generator.
    """
    if num_classes < 1:
        raise UserError(f"a model needs at least one class, not {num_classes}")
    if projection_dim is not None and projection_dim < 1:
        raise UserError(f"projection_dim {projection_dim} must be at least 1, or left out for the default")
    built = build_backbone(backbone, width)
    return LongTailModel(built, num_classes, projection_dim or built.projection_dim)
