"""What a few seeds say of a method: mean, standard deviation, and an interval of a paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95 % confidence interval, in the unit of the data."""

    mean: float
    low: float
    high: float


def sample_deviation(values: Sequence[float]) -> float | None:
    """Standard deviation with divisor n-1; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_interval(ours: Sequence[float], baseline: Sequence[float]) -> Interval:
    """95 % interval of the mean of `ours` - `baseline`, paired by place, by Student's t with n-1 degrees.

    Pairing by seed takes out what both methods share in a seed. Needs at least two pairs.
    """
    assert len(ours) == len(baseline) >= 2, "one value of each a seed, two seeds at least"
    differences = np.subtract(ours, baseline)
    mean = float(differences.mean())
    half = float(
        stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    )
    return Interval(mean, mean - half, mean + half)
