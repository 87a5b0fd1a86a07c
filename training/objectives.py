"""Objectives: what a method minimises, what data and which layers it needs, and which head it predicts with.

GLMC is Du et al., CVPR 2023. The defaults are the semantics of its official code; where the paper's equations
differ, a setting of `GlmcSettings` reaches them. Labels stay (label a, label b, λ), never dense rows, and
everything is computed in float32; autocast does not touch the operations used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.batch import Batch
from pipelines.user_error import UserError
from training.model import LINEAR_LAYERS, InferenceHead, LinearLayer, Outputs, full_precision

LossFunction = Callable[[Outputs, Batch, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Objective:
    """A method as the trainer sees it."""

    name: str
    """Its key in `METHODS`."""
    cumulative: bool
    """Whether α falls over the epochs; otherwise it is 1 throughout."""
    inference_head: InferenceHead
    """The head that evaluation, export and prediction use."""
    trained_layers: tuple[LinearLayer, ...]
    """The linear layers that take part in the loss; the trainer freezes the others."""
    loss: LossFunction
    """(outputs of the V·N images, batch, α) -> 0-dim float32 tensors on the batch's device: "loss", to be
    minimised, and its parts without gradient. α is a 0-dim float32 tensor on that device."""

    @property
    def mixed(self) -> bool:
        """See `Method.mixed`."""
        return METHODS[self.name].mixed

    @property
    def views(self) -> int:
        """V, mixed images a pair."""
        return 2 if self.mixed else 1

    @property
    def trained_heads(self) -> tuple[InferenceHead, ...]:
        """The heads whose accuracy means something."""
        return tuple(head for head in get_args(InferenceHead) if f"{head}_head" in self.trained_layers)


@dataclass(frozen=True, kw_only=True)
class GlmcSettings:
    """Settings of the method `glmc`."""

    k: float = 1.0
    """Exponent of re-weighting, w_c ∝ n_c^-k, no unit; 0 turns it off. 1.0 in the paper and for ImageNet-LT
    and iNaturalist 2018, 1.2 on most CIFAR-LT rows of the official README."""
    gamma: float = 10.0
    """Weight γ of the consistency loss, no unit. 10 in the paper (Figure 4), 1 to 6 for CIFAR-LT (README)."""
    label_weights: Literal["replace", "multiply"] = "replace"
    """How the mixed class weights meet the mixed label: `replace` it, so that class a counts λ·w_a (official
    code), or `multiply` it element by element, so that it counts λ²·w_a (equations 8 and 9 as written)."""
    over_views: Literal["sum", "mean"] = "sum"
    """Whether the classification losses of the MixUp and the CutMix view are added (official code) or
    averaged (the paper's factor 1/(2N)). The consistency loss is a sum in both."""
    balanced: bool = False
    """For a balanced training set, as the paper's full CIFAR and ImageNet: α = 1, no rebalanced loss,
    inference through the conventional head. `k` and `label_weights` must then keep their defaults."""

    def __post_init__(self) -> None:
        for name in ("k", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"glmc.{name} is {value}; it must be a finite number of at least 0")
        if self.balanced:
            for name in ("k", "label_weights"):
                if getattr(self, name) != getattr(GlmcSettings, name):
                    raise UserError(f"glmc.{name} has no effect with glmc.balanced; leave one of the two out")


@dataclass(frozen=True)
class Method:
    """What is known of a method before its data are."""

    mixed: bool
    """Whether the loader gives MixUp and CutMix images of pairs (V = 2), or plain images (V = 1, λ = 1)."""
    build: Callable[[Tensor, GlmcSettings], Objective]
    """(training images per class, settings) -> the objective; a method other than GLMC reads no settings."""


def build_objective(method: str, counts: Tensor, settings: GlmcSettings) -> Objective:
    """Build the objective of `method`, a key of `METHODS`, on the device of `counts`.

    `counts` (C,) integers, training images per class. Raises `UserError` for an unknown method, and for a
    class without images where the method weighs classes by their counts.
    """
    if method not in METHODS:
        raise UserError(f"method {method!r} is not known; choose one of {', '.join(METHODS)}")
    return METHODS[method].build(counts, settings)


def class_weights(counts: Tensor, k: float) -> Tensor:
    """(C,) images per class -> (C,) float32 weights C · n_c^-k / Σ n^-k, mean 1, on the device of `counts`.

    Raises `UserError` for a class without images, whose weight would be infinite.
    """
    n = counts.cpu().double()
    if (n <= 0).any():
        empty = int((n <= 0).nonzero()[0, 0])
        raise UserError(
            f"class {empty} has no training images, so it has no weight n^-k; remove it from the classes"
        )
    weights = n**-k
    return (weights * (len(n) / weights.sum())).float().to(counts.device)


def mixed_cross_entropy(logits: Tensor, batch: Batch, weight_a: Tensor, weight_b: Tensor) -> Tensor:
    """Cross-entropy with weights on labels a and b: (V·N, C) logits -> (V,) float32, means over the N pairs.

    The loss of an image is -(weight_a · log f_a + weight_b · log f_b), with `weight_a` and `weight_b` (V, N).
    """
    views = batch.lam.shape[0]
    log_f = F.log_softmax(full_precision(logits), dim=1)
    loss_a = F.nll_loss(log_f, batch.label_a.repeat(views), reduction="none").view_as(batch.lam)
    loss_b = F.nll_loss(log_f, batch.label_b.repeat(views), reduction="none").view_as(batch.lam)
    return (weight_a * loss_a + weight_b * loss_b).mean(dim=1)


def rebalanced_weights(
    batch: Batch, weights: Tensor, label_weights: Literal["replace", "multiply"]
) -> tuple[Tensor, Tensor]:
    """Weights (V, N) of labels a and b in the rebalanced loss, from class weights (C,): see `GlmcSettings`.

    The element-wise product meets a class once: where a and b are the same class its mixed label is 1 and its
    mixed weight is w, so the weights of both labels must add up to w, not to (λ² + (1-λ)²)·w.
    """
    share_a, share_b = batch.lam, 1 - batch.lam
    if label_weights == "multiply":
        same = batch.label_a == batch.label_b
        share_a, share_b = torch.where(same, share_a, share_a**2), torch.where(same, share_b, share_b**2)
    return share_a * weights[batch.label_a], share_b * weights[batch.label_b]


def consistency(projection: Tensor, prediction: Tensor) -> Tensor:
    """Minus the cosine of each prediction with the other view's projection: (2N, P) twice -> 0-dim float32.

    -mean cos(p1, sg z2) - mean cos(p2, sg z1), in [-2, 2]; no gradient passes into z (the stop-gradient).
    """
    z1, z2 = full_precision(projection.detach()).chunk(2)
    p1, p2 = full_precision(prediction).chunk(2)
    return -F.cosine_similarity(p1, z2, dim=1).mean() - F.cosine_similarity(p2, z1, dim=1).mean()


def _cross_entropy(counts: Tensor, settings: GlmcSettings) -> Objective:
    """Plain cross-entropy of the conventional head on plain images."""

    def loss(outputs: Outputs, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        return {"loss": mixed_cross_entropy(outputs.conventional, batch, batch.lam, 1 - batch.lam).sum()}

    return Objective(
        name="ce",
        cumulative=False,
        inference_head="conventional",
        trained_layers=("conventional_head",),
        loss=loss,
    )


def _glmc(counts: Tensor, settings: GlmcSettings) -> Objective:
    """GLMC by its official code or by the paper's equations: see `GlmcSettings`."""
    gamma = torch.tensor(settings.gamma, dtype=torch.float32, device=counts.device)
    weights = None if settings.balanced else class_weights(counts, settings.k)

    def loss(outputs: Outputs, batch: Batch, alpha: Tensor) -> dict[str, Tensor]:
        assert batch.lam.shape[0] == 2, "GLMC needs the MixUp and the CutMix view"
        over_views = torch.sum if settings.over_views == "sum" else torch.mean
        conventional = over_views(mixed_cross_entropy(outputs.conventional, batch, batch.lam, 1 - batch.lam))
        sim = consistency(outputs.projection, outputs.prediction)
        parts = {"loss_conventional": conventional.detach(), "loss_consistency": sim.detach()}
        if weights is None:
            return {"loss": conventional + gamma * sim, **parts}
        shares = rebalanced_weights(batch, weights, settings.label_weights)
        rebalanced = over_views(mixed_cross_entropy(outputs.rebalanced, batch, *shares))
        total = alpha * conventional + (1 - alpha) * rebalanced + gamma * sim
        return {"loss": total, **parts, "loss_rebalanced": rebalanced.detach()}

    return Objective(
        name="glmc",
        cumulative=not settings.balanced,
        inference_head="conventional" if settings.balanced else "rebalanced",
        trained_layers=tuple(n for n in LINEAR_LAYERS if not (settings.balanced and n == "rebalanced_head")),
        loss=loss,
    )


METHODS: dict[str, Method] = {
    "ce": Method(mixed=False, build=_cross_entropy),
    "glmc": Method(mixed=True, build=_glmc),
}
