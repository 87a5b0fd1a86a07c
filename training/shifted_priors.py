"""Accuracy where the test classes are long-tailed too: as the training set (forward), or against it (backward).

Hong et al. (LADE, CVPR 2021, section 4.3) and Zhang et al. (SADE, NeurIPS 2022) take a balanced test set of n
images a class and keep floor(n · ρ^(-i/(C-1))) images of the class that has place i: by falling number of training
images (forward ρ), or by rising (backward ρ). They draw one such subset and count on it. Which images it keeps
is chance, how many of each class is not. So here every class has its accuracy on all of its test images, and is
weighted by the number that would be kept: that is the mean over all subsets, without the chance of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FACTORS = (50, 25, 10, 5, 3, 2)
"""Imbalance factors ρ: those of ImageNet-LT, Places-LT and CIFAR-100-LT, and the 3 and 2 of iNaturalist 2018."""


def shifted_accuracies(
    per_class: Sequence[float | None],
    test_counts: Sequence[int] | NDArray[np.integer],
    train_counts: Sequence[int] | NDArray[np.integer],
) -> dict[str, float]:
    """Top-1 accuracy by the name of the shift: forward50, ... forward2, uniform, backward2, ... backward50.

    All arguments have one value a class. n is the least number of test images of a class, without the classes
    that have none; a factor above n is left out, for the rarest class would keep no image. Classes with
    equally many training images are placed in the order of their labels. The logits are as they are: what
    LADE and PC softmax add to them where they know the test prior is not added here.
    """
    tested = np.asarray(test_counts) > 0
    order = np.argsort(-np.asarray(train_counts)[tested], kind="stable")
    accuracies = np.asarray(per_class, np.float64)[tested][order]
    n = int(np.asarray(test_counts)[tested].min())
    possible = [factor for factor in FACTORS if factor <= n]
    shifted = {}
    for factor in possible:
        kept = kept_images(n, factor, len(accuracies))
        shifted[f"forward{factor}"] = float(np.average(accuracies, weights=kept))
    shifted["uniform"] = float(accuracies.mean())
    for factor in reversed(possible):
        kept = kept_images(n, factor, len(accuracies))[::-1]
        shifted[f"backward{factor}"] = float(np.average(accuracies, weights=kept))
    return shifted


def kept_images(n: int, factor: int, classes: int) -> NDArray[np.int64]:
    """(C,) int64 images kept of the class at each place, from n down to floor(n / factor)."""
    places = np.arange(classes) / max(classes - 1, 1)
    return np.floor(n * (1 / factor) ** places).astype(np.int64)
