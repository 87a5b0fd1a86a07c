"""How many images each class keeps when a set is made long-tailed.

With C classes, N images in the largest class, imbalance factor F and r = 0 .. C-1 the place of a class,
exponential decay keeps int(N F^(-r/(C-1))) (Cui et al., "Class-Balanced Loss Based on Effective Number of
Samples", CVPR 2019; the CIFAR-LT sets), and Pareto decay int(N (r+1)^(-a)), a = ln F / ln C: class sizes at the
quantiles of a Pareto distribution with power 1/a, in other words Zipf's law. Both end at N / F; Pareto decay has
the thinner head and the longer tail.
"""

from __future__ import annotations

import math

import numpy as np

from pipelines.user_error import UserError


def exponential_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """Return the (C,) int64 class sizes, largest first.

    Raises:
        UserError: the factor is below 1, or so large that a class has no images.
    """
    _check_factor(largest, imbalance_factor)
    steps = max(1, num_classes - 1)
    # Python's power, not NumPy's: the published counts hang on how 499.99... or 500.0 is rounded.
    return np.array([int(largest * imbalance_factor ** (-r / steps)) for r in range(num_classes)], np.int64)


def pareto_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """Return the (C,) int64 class sizes, largest first.

    Raises:
        UserError: the factor is below 1, or so large that a class has no images.
    """
    _check_factor(largest, imbalance_factor)
    power = math.log(imbalance_factor) / math.log(max(2, num_classes))
    sizes = [int(largest * (r + 1) ** -power + 1e-9) for r in range(num_classes)]  # N / F must not lose one
    return np.array(sizes, np.int64)


def _check_factor(largest: int, imbalance_factor: float) -> None:
    if not 1 <= imbalance_factor <= largest:
        raise UserError(
            f"--imbalance-factor {imbalance_factor:g} makes no long-tailed set with images in every class; "
            f"give 1 to {largest}, the images of the largest class"
        )
