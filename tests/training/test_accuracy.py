"""Many, medium and few on the real class counts, and accuracies against counting image by image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.user_error import UserError
from training.accuracy import FEW, MANY, MEDIUM, accuracy_from_counts, add_counts, shot_groups


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


def test_counts_of_batches_equal_counting_one_by_one() -> None:
    classes, generator = 5, torch.Generator().manual_seed(0)
    correct, total = torch.zeros(classes, dtype=torch.int64), torch.zeros(classes, dtype=torch.int64)
    expected_correct, expected_total = [0] * classes, [0] * classes
    for rows in (11, 7, 1):
        logits = torch.randn(rows, classes, generator=generator)
        labels = torch.randint(0, 4, (rows,), generator=generator)  # class 4 never occurs
        logits[: rows // 2] += 5 * torch.nn.functional.one_hot(labels[: rows // 2], classes)
        counted = torch.rand(rows, generator=generator) < 0.8
        add_counts(correct, total, logits, labels, counted)
        for row, label, is_counted in zip(logits.tolist(), labels.tolist(), counted.tolist(), strict=True):
            if is_counted:
                expected_total[label] += 1
                expected_correct[label] += row.index(max(row)) == label
    assert correct.tolist() == expected_correct and total.tolist() == expected_total
    assert 0 < sum(expected_correct) < sum(expected_total) < 19


def test_groups_are_means_of_class_accuracies_and_all_counts_images() -> None:
    # Training counts 500, 200 | 50 | 10, 5, 3; the last class has no test images.
    correct, total = torch.tensor([9, 4, 3, 1, 0, 0]), torch.tensor([10, 8, 4, 4, 2, 0])
    result = accuracy_from_counts(correct, total, [500, 200, 50, 10, 5, 3])
    assert result.all == pytest.approx(17 / 28)
    assert result.many == pytest.approx((0.9 + 0.5) / 2)
    assert result.medium == pytest.approx(0.75)
    assert result.few == pytest.approx((0.25 + 0.0) / 2)
    assert result.per_class == [0.9, 0.5, 0.75, 0.25, 0.0, None]


def test_the_rule_moves_a_class_of_20() -> None:
    correct, total = torch.tensor([1, 1]), torch.tensor([2, 4])
    by_default = accuracy_from_counts(correct, total, [200, 20])
    by_glmc = accuracy_from_counts(correct, total, [200, 20], "glmc")
    assert (by_default.many, by_default.medium, by_default.few) == (0.5, 0.25, None)
    assert (by_glmc.many, by_glmc.medium, by_glmc.few) == (0.5, None, 0.25)


def test_a_group_whose_classes_have_no_test_images_has_no_accuracy() -> None:
    result = accuracy_from_counts(torch.tensor([1, 0]), torch.tensor([2, 0]), [200, 2])
    assert (result.many, result.few) == (0.5, None)
