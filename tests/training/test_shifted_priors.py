"""Weights against drawing test sets: every subset that could be drawn, the published lists' sizes, by hand."""

from __future__ import annotations

import json
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from training.shifted_priors import kept_images, shifted_accuracies

PUBLISHED_TOTALS = {50: 12_058, 25: 14_437, 10: 19_059, 5: 24_365, 2: 35_574}
"""Rows of ImageNet_LT_forwardρ.txt in Vanint/SADE-AgnosticLT (cba11b8), and of the backward ones."""


@pytest.mark.parametrize(("factor", "images"), PUBLISHED_TOTALS.items())
def test_as_many_images_as_in_the_published_lists_of_imagenet_lt(factor: int, images: int) -> None:
    kept = kept_images(50, factor, 1000)
    assert kept.sum() == images
    assert (kept[0], kept[-1]) == (50, 50 // factor)
    assert (np.diff(kept) <= 0).all()


def test_as_many_images_as_in_the_published_list_of_inaturalist() -> None:
    assert kept_images(3, 2, 8142).sum() == 12_906


def test_weights_are_the_mean_over_every_test_set_that_could_be_drawn() -> None:
    """Three classes of 4 test images, of which (4, 2, 2) are kept at factor 2, in the order of training counts."""
    right = [[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]  # classes 0, 1, 2
    train_counts = [10, 700, 60]
    order = {"forward2": [1, 2, 0], "backward2": [0, 2, 1]}
    assert kept_images(4, 2, 3).tolist() == [4, 2, 2]
    found = shifted_accuracies([0.25, 0.75, 0.5], [4, 4, 4], train_counts)
    for name, classes in order.items():
        choices = [combinations(right[c], kept) for c, kept in zip(classes, (4, 2, 2), strict=True)]
        accuracies = [sum(map(sum, drawn)) / 8 for drawn in product(*choices)]
        assert len(accuracies) == 36
        assert found[name] == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert found["uniform"] == pytest.approx(0.5)


def test_forward_favours_a_model_of_the_frequent_classes(shared_data: Path) -> None:
    train_counts = json.loads((shared_data / "class_counts.json").read_text())["ImageNet-LT"]
    per_class = [0.9 if count > 100 else 0.1 for count in train_counts]
    shifted = shifted_accuracies(per_class, [50] * 1000, train_counts)
    assert list(shifted) == [
        *(f"forward{factor}" for factor in (50, 25, 10, 5, 3, 2)),
        "uniform",
        *(f"backward{factor}" for factor in (2, 3, 5, 10, 25, 50)),
    ]
    assert sorted(shifted.values(), reverse=True) == list(shifted.values())
    assert shifted["uniform"] == pytest.approx(0.1 + 0.8 * 0.385)
    kept = [int(50 * 50 ** (-place / 999) + 1e-9) for place in range(1000)]  # 385 many classes come first
    assert shifted["forward50"] == pytest.approx(0.1 + 0.8 * sum(kept[:385]) / sum(kept))
    assert shifted["backward50"] == pytest.approx(0.1 + 0.8 * sum(kept[-385:]) / sum(kept))


def test_the_same_accuracy_everywhere_is_the_same_under_every_prior() -> None:
    assert set(shifted_accuracies([0.5] * 4, [60, 50, 70, 55], [9, 8, 7, 6]).values()) == {0.5}


def test_the_class_with_the_fewest_test_images_says_how_many_are_kept() -> None:
    found = shifted_accuracies([0.9, 0.5, 0.1], [12, 5, 30], [7, 70, 700])
    assert found == shifted_accuracies([0.9, 0.5, 0.1], [5, 5, 5], [7, 70, 700])
    assert next(iter(found)) == "forward5"


def test_classes_of_one_size_are_placed_by_their_labels() -> None:
    accuracies = np.random.default_rng(0).random(200)
    found = shifted_accuracies(accuracies.tolist(), [50] * 200, [7, 8] * 100)
    placed = [*accuracies[1::2], *accuracies[0::2]]
    assert found["forward50"] == pytest.approx(
        np.average(placed, weights=kept_images(50, 50, 200)), abs=1e-12
    )


def test_a_factor_that_would_keep_no_image_is_left_out() -> None:
    three = shifted_accuracies([0.5, 0.25], [3, 3], [9, 1])
    assert list(three) == ["forward3", "forward2", "uniform", "backward2", "backward3"]
    assert three["forward3"] == pytest.approx((3 * 0.5 + 0.25) / 4)
    assert list(shifted_accuracies([1.0], [1], [9])) == ["uniform"]


def test_classes_without_test_images_take_no_place() -> None:
    with_empty = shifted_accuracies([0.5, None, 0.25], [10, 0, 10], [9, 5, 1])
    assert with_empty == shifted_accuracies([0.5, 0.25], [10, 10], [9, 1])
