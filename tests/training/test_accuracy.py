"""Many, medium and few on the real class counts, and figures against scikit-learn, SciPy and by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch import Tensor

from pipelines.user_error import UserError
from training.accuracy import (
    FEW,
    MAIN_RULE,
    MANY,
    MEDIUM,
    SHOT_RULES,
    accuracy_from_counts,
    add_counts,
    shot_groups,
)


def group_sizes(counts: list[int], rule: str) -> tuple[int, int, int]:
    groups = shot_groups(counts, rule)
    assert groups.dtype == np.int8 and groups.shape == (len(counts),)
    return (int((groups == MANY).sum()), int((groups == MEDIUM).sum()), int((groups == FEW).sum()))


@pytest.mark.parametrize(
    ("rule", "groups"),
    [
        ("classifier-balancing", [0, 0, 1, 1, 1, 2, 2]),
        ("glmc", [0, 0, 1, 1, 2, 2, 2]),
        ("oltr", [0, 0, 0, 1, 2, 2, 2]),
    ],
)
def test_the_rules_at_their_borders(rule: str, groups: list[int]) -> None:
    assert shot_groups([1280, 101, 100, 99, 20, 19, 0], rule).tolist() == groups


@pytest.mark.parametrize(
    ("rule", "imagenet_lt", "inaturalist18"),
    [
        ("classifier-balancing", (385, 479, 136), (842, 4076, 3224)),
        ("glmc", (385, 469, 146), (842, 3701, 3599)),
        ("oltr", (391, 463, 146), (845, 3698, 3599)),
    ],
)
def test_published_group_sizes_on_the_real_counts(
    shared_data: Path, rule: str, imagenet_lt: tuple[int, ...], inaturalist18: tuple[int, ...]
) -> None:
    counts = json.loads((shared_data / "class_counts.json").read_text())
    assert group_sizes(counts["ImageNet-LT"], rule) == imagenet_lt
    assert group_sizes(counts["iNaturalist18"], rule) == inaturalist18


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [("classifier-balancing", (35, 35, 30)), ("glmc", (35, 34, 31)), ("oltr", (35, 34, 31))],
)
def test_published_group_sizes_on_cifar_100_lt(rule: str, sizes: tuple[int, ...]) -> None:
    counts = [int(500 * 100 ** (-c / 99)) for c in range(100)]
    assert sum(counts) == 10_847
    assert group_sizes(counts, rule) == sizes


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(
        UserError, match="'imagenet' is not known; choose one of classifier-balancing, glmc, oltr"
    ):
        shot_groups([1, 2], "imagenet")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("classifier-balancing", "many > 100, medium 20 to 100, few < 20"),
        ("glmc", "many > 100, medium 21 to 100, few < 21"),
        ("oltr", "many > 99, medium 21 to 99, few < 21"),
    ],
)
def test_the_rules_in_words(rule: str, text: str) -> None:
    assert SHOT_RULES[rule].text == text


def batches(classes: int, present: int, rows: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits, labels below `present` and what counts of them; half of the images are easy."""
    generator = torch.Generator().manual_seed(0)
    for n in rows:
        logits = torch.randn(n, classes, generator=generator)
        labels = torch.randint(0, present, (n,), generator=generator)
        logits[: n // 2] += 3 * torch.nn.functional.one_hot(labels[: n // 2], classes)
        yield logits, labels, torch.rand(n, generator=generator) < 0.8


def test_figures_of_batches_equal_scikit_learn_and_scipy() -> None:
    classes, counts = 9, torch.zeros(3, 9, dtype=torch.int64)
    seen_logits, seen_labels = [], []
    for logits, labels, counted in batches(classes, 8, (311, 77, 1)):  # class 8 never occurs
        add_counts(counts, logits, labels, counted)
        seen_logits.append(logits[counted])
        seen_labels.append(labels[counted])
    logits, labels = torch.cat(seen_logits).numpy(), torch.cat(seen_labels).numpy()
    assert 200 < len(labels) < 389
    result = accuracy_from_counts(counts, [500, 120, 60, 30, 20, 19, 7, 3, 2])
    predicted = logits.argmax(1)
    recalls = metrics.recall_score(labels, predicted, labels=range(8), average=None)
    assert result.all == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-12)
    expected = metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
    assert result.top5 == pytest.approx(expected, abs=1e-12)
    assert result.all < result.top5 < 1
    assert result.macro == pytest.approx(recalls.mean(), abs=1e-12)
    assert result.per_class[:8] == pytest.approx(recalls.tolist(), abs=1e-12)
    assert result.per_class[8] is None
    assert result.worst == pytest.approx(recalls.min(), abs=1e-12)
    assert result.worst_class == recalls.argmin()
    assert result.geometric_mean == pytest.approx(stats.gmean(recalls), abs=1e-12)
    assert result.harmonic_mean == pytest.approx(stats.hmean(recalls), abs=1e-12)
    assert result.harmonic_mean < result.geometric_mean < result.macro
    assert result.never_right == 0


def test_ties_of_equal_logits_go_to_the_first_class_and_to_five_in_all() -> None:
    counts = torch.zeros(3, 7, dtype=torch.int64)
    add_counts(counts, torch.zeros(7, 7), torch.arange(7), torch.ones(7, dtype=torch.bool))
    assert counts[0].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert counts[1].sum() == 5


@pytest.mark.parametrize(("classes", "has_top5"), [(1, False), (5, False), (6, True)])
def test_top_5_of_no_more_than_five_classes_is_left_out(classes: int, has_top5: bool) -> None:
    counts = torch.zeros(3, classes, dtype=torch.int64)
    add_counts(counts, torch.eye(classes), torch.arange(classes), torch.ones(classes, dtype=torch.bool))
    assert accuracy_from_counts(counts, [10] * classes).top5 == (1.0 if has_top5 else None)


def counts_of(correct: list[int], total: list[int]) -> Tensor:
    """(3, C) counts in which top-5 is right everywhere."""
    return torch.tensor([correct, total, total])


def test_all_figures_by_hand() -> None:
    # Training counts 500, 200 | 50 | 10, 5, 3; the last class has no test images.
    result = accuracy_from_counts(
        counts_of([9, 4, 3, 1, 1, 0], [10, 8, 4, 4, 8, 0]), [500, 200, 50, 10, 5, 3]
    )
    assert result.all == pytest.approx(18 / 34)
    assert result.top5 == 1
    assert result.many == pytest.approx((0.9 + 0.5) / 2)
    assert result.medium == pytest.approx(0.75)
    assert result.few == pytest.approx((0.25 + 0.125) / 2)
    assert result.macro == pytest.approx(2.525 / 5)
    assert (result.worst, result.worst_class) == (0.125, 4)
    assert result.geometric_mean == pytest.approx((0.9 * 0.5 * 0.75 * 0.25 * 0.125) ** 0.2)
    assert result.harmonic_mean == pytest.approx(5 / (1 / 0.9 + 2 + 4 / 3 + 4 + 8))
    assert result.per_class == [0.9, 0.5, 0.75, 0.25, 0.125, None]


def test_the_worst_class_keeps_its_label_behind_a_class_without_images() -> None:
    result = accuracy_from_counts(counts_of([0, 3, 1, 2], [0, 4, 4, 4]), [9, 8, 7, 6])
    assert (result.worst, result.worst_class, result.never_right) == (0.25, 2, 0)


def test_one_class_that_is_never_right_makes_both_means_zero() -> None:
    result = accuracy_from_counts(counts_of([4, 0, 2, 0], [4, 4, 4, 0]), [9, 8, 7, 6])
    assert (result.geometric_mean, result.harmonic_mean, result.never_right) == (0, 0, 1)
    assert (result.worst, result.worst_class) == (0, 1)
    assert result.macro == 0.5


def test_the_rules_move_classes_of_100_and_20() -> None:
    result = accuracy_from_counts(counts_of([1, 1, 3], [2, 4, 4]), [200, 20, 100])
    assert result.by_rule == {
        "classifier-balancing": {"many": 0.5, "medium": 0.5, "few": None},
        "glmc": {"many": 0.5, "medium": 0.75, "few": 0.25},
        "oltr": {"many": 0.625, "medium": None, "few": 0.25},
    }
    assert {"many": result.many, "medium": result.medium, "few": result.few} == result.by_rule[MAIN_RULE]
    assert MAIN_RULE == "classifier-balancing"


def test_a_group_whose_classes_have_no_test_images_has_no_accuracy() -> None:
    result = accuracy_from_counts(counts_of([1, 0], [2, 0]), [200, 2])
    assert (result.many, result.few) == (0.5, None)
