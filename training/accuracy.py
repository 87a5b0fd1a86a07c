"""Accuracy of a long-tailed model: counts per class -> top-1 over all images and over many, medium and few.

Three rules for many, medium and few are in use, and figures by different rules do not compare. So the rule is
part of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.user_error import UserError

MANY, MEDIUM, FEW = 0, 1, 2
"""Codes of `shot_groups`."""


@dataclass(frozen=True)
class ShotRule:
    """Which classes are many and which few, by their number of training images; the rest are medium."""

    many_from: int
    """Least number of training images of a many class."""
    few_to: int
    """Greatest number of training images of a few class."""


SHOT_RULES: dict[str, ShotRule] = {
    "classifier-balancing": ShotRule(many_from=101, few_to=19),
    "glmc": ShotRule(many_from=101, few_to=20),
    "oltr": ShotRule(many_from=100, few_to=20),
}
"""> 100 / 20..100 / < 20 (Kang et al. 2020 and most since); > 100 / 21..100 / <= 20 (GLMC's own trainer); and
>= 100 / 21..99 / <= 20 (the code of Liu et al. 2019)."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracies as fractions of 1, None where there is nothing to average."""

    all: float
    """Over all test images, each counting once."""
    many: float | None
    """Mean of the per-class accuracies of the group, likewise `medium` and `few`."""
    medium: float | None
    few: float | None
    per_class: list[float | None]
    """None for a class without test images; such a class is in no group's mean."""


def shot_groups(train_counts: Sequence[int] | NDArray[np.integer], rule: str) -> NDArray[np.int8]:
    """(C,) training images per class -> (C,) of MANY, MEDIUM or FEW, by the rule named in `SHOT_RULES`.

    Raises `UserError` for an unknown rule.
    """
    if rule not in SHOT_RULES:
        raise UserError(f"shot rule {rule!r} is not known; choose one of {', '.join(SHOT_RULES)}")
    counts = np.asarray(train_counts)
    groups = np.full(counts.shape, MEDIUM, np.int8)
    groups[counts >= SHOT_RULES[rule].many_from] = MANY
    groups[counts <= SHOT_RULES[rule].few_to] = FEW
    return groups


def add_counts(correct: Tensor, total: Tensor, logits: Tensor, labels: Tensor, counted: Tensor) -> None:
    """Add a batch to (C,) int64 `correct` and `total` in place, on their device, without waiting for it.

    `logits` (N, C), `labels` (N,) int64, `counted` (N,) bool: rows that are False are padding, and their
    labels only need to lie in [0, C). Sums of these counts over batches and ranks are exact, unlike means of
    accuracies.
    """
    hits = (logits.argmax(1) == labels) & counted
    correct.scatter_add_(0, labels, hits.to(correct.dtype))
    total.scatter_add_(0, labels, counted.to(total.dtype))


def accuracy_from_counts(
    correct: Tensor,
    total: Tensor,
    train_counts: Sequence[int] | NDArray[np.integer],
    rule: str = "classifier-balancing",
) -> Accuracy:
    """(C,) correct, tested and training images per class -> `Accuracy`; waits for the device."""
    right = correct.cpu().double().numpy()
    tested = total.cpu().double().numpy()
    assert right.shape == tested.shape == (len(train_counts),), "one count a class"
    assert tested.sum() > 0, "nothing was evaluated"
    groups = shot_groups(train_counts, rule)
    has_images = tested > 0
    per_class = np.divide(right, tested, out=np.zeros_like(right), where=has_images)

    def group_mean(group: int) -> float | None:
        members = per_class[(groups == group) & has_images]
        return float(members.mean()) if len(members) else None

    return Accuracy(
        all=float(right.sum() / tested.sum()),
        many=group_mean(MANY),
        medium=group_mean(MEDIUM),
        few=group_mean(FEW),
        per_class=[float(a) if has else None for a, has in zip(per_class, has_images, strict=True)],
    )
