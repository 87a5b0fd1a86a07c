"""Accuracy of a long-tailed model: counts per class -> top-1, top-5, many / medium / few, means over classes.

Three rules for many, medium and few are in use, and figures by different rules do not compare. So all three are
computed, each under its name, and one is the main one.
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
GROUPS = ("many", "medium", "few")
"""Their names, in the order of the codes."""
TOP_K = 5
TOP_1_ROW, TOP_5_ROW, TOTAL_ROW = 0, 1, 2
"""Rows of the (3, C) counts of `add_counts`."""


@dataclass(frozen=True)
class ShotRule:
    """Which classes are many and which few, by their number of training images; the rest are medium."""

    many_from: int
    """Least number of training images of a many class."""
    few_to: int
    """Greatest number of training images of a few class."""

    @property
    def text(self) -> str:
        """The rule in words, as "many > 100, medium 20 to 100, few < 20"."""
        medium = f"medium {self.few_to + 1} to {self.many_from - 1}"
        return f"many > {self.many_from - 1}, {medium}, few < {self.few_to + 1}"


SHOT_RULES: dict[str, ShotRule] = {
    "classifier-balancing": ShotRule(many_from=101, few_to=19),
    "glmc": ShotRule(many_from=101, few_to=20),
    "oltr": ShotRule(many_from=100, few_to=20),
}
"""> 100 / 20..100 / < 20 (Kang et al. 2020 and most since); > 100 / 21..100 / <= 20 (GLMC's own trainer); and
>= 100 / 21..99 / <= 20 (the code of Liu et al. 2019)."""
MAIN_RULE = "classifier-balancing"
"""The rule of `many`, `medium` and `few` wherever no rule is named."""


@dataclass(frozen=True)
class Accuracy:
    """Fractions of 1, None where there is nothing to average. A class without test images is in no figure."""

    all: float
    """Top-1 over all test images, each counting once."""
    top5: float | None
    """Share of all test images whose class is among the five largest logits; None where C is 5 or less."""
    many: float | None
    """Mean of the top-1 accuracies of the group's classes by `MAIN_RULE`, likewise `medium` and `few`."""
    medium: float | None
    few: float | None
    macro: float
    """Mean of the top-1 accuracies of all classes; that of all images where all classes have equally many."""
    worst: float
    """The lowest top-1 accuracy of a class."""
    worst_class: int
    """The class that has it, the first where several do."""
    geometric_mean: float
    """Of the classes' accuracies. 0 as soon as one class is never right: nothing is put in the place of a zero."""
    harmonic_mean: float
    """Likewise, and 0 likewise."""
    never_right: int
    """Classes of accuracy 0: what makes the two means 0."""
    by_rule: dict[str, dict[str, float | None]]
    """many, medium and few by each of `SHOT_RULES`."""
    per_class: list[float | None]
    """Top-1 of each class, None for a class without test images."""


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


def add_counts(counts: Tensor, logits: Tensor, labels: Tensor, counted: Tensor) -> None:
    """Add a batch to (3, C) int64 `counts` in place, on their device, without waiting for it.

    The rows are images whose class has the largest logit, is among the five largest, and all images.
    `logits` (N, C), `labels` (N,) int64, `counted` (N,) bool: rows that are False are padding, and their
    labels only need to lie in [0, C). Sums of these counts over batches and ranks are exact, unlike means of
    accuracies.
    """
    top = logits.topk(min(TOP_K, logits.shape[1]), dim=1).indices
    first = logits.argmax(1) == labels  # of equal logits the first, whatever topk does
    hits = (first, (top == labels[:, None]).any(1), counted)
    for row, hit in zip(counts, hits, strict=True):
        row.scatter_add_(0, labels, (hit & counted).to(row.dtype))


def accuracy_from_counts(counts: Tensor, train_counts: Sequence[int] | NDArray[np.integer]) -> Accuracy:
    """(3, C) counts of `add_counts` and (C,) training images per class -> `Accuracy`; waits for the device."""
    right, right5, tested = counts.cpu().double().numpy()
    assert len(right) == len(train_counts), "one count a class"
    assert tested.sum() > 0, "nothing was evaluated"
    has_images = tested > 0
    per_class = np.divide(right, tested, out=np.full_like(right, np.nan), where=has_images)
    present = per_class[has_images]
    by_rule = {rule: _group_means(per_class, shot_groups(train_counts, rule)) for rule in SHOT_RULES}
    return Accuracy(
        all=float(right.sum() / tested.sum()),
        top5=float(right5.sum() / tested.sum()) if len(right) > TOP_K else None,
        **by_rule[MAIN_RULE],
        macro=float(present.mean()),
        worst=float(present.min()),
        worst_class=int(np.nanargmin(per_class)),
        geometric_mean=_geometric_mean(present),
        harmonic_mean=_harmonic_mean(present),
        never_right=int((present == 0).sum()),
        by_rule=by_rule,
        per_class=[float(a) if has else None for a, has in zip(per_class, has_images, strict=True)],
    )


def _group_means(per_class: NDArray[np.float64], groups: NDArray[np.int8]) -> dict[str, float | None]:
    """Mean of each group by its name; NaN in `per_class` is a class without test images."""
    means: dict[str, float | None] = {}
    for code, name in enumerate(GROUPS):
        members = per_class[(groups == code) & ~np.isnan(per_class)]
        means[name] = float(members.mean()) if len(members) else None
    return means


def _geometric_mean(accuracies: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(accuracies).mean())) if (accuracies > 0).all() else 0.0


def _harmonic_mean(accuracies: NDArray[np.float64]) -> float:
    return float(len(accuracies) / (1 / accuracies).sum()) if (accuracies > 0).all() else 0.0
