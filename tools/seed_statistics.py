"""Seeds on a command line, and what a few of them say: mean, deviation, and an interval of a paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipelines.user_error import UserError


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95 % confidence interval, in the unit of the data."""

    mean: float
    low: float
    high: float


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` -> seeds, each once."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise UserError(f"--seeds {text}: give whole numbers from 0 with commas between, as 0,1,2")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: name each seed once")
    return seeds


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


def mean_text(fractions: Sequence[float | None]) -> str:
    """Mean and standard deviation in percent, as 84.9 ± 2.2; of one value itself, of none a dash."""
    numbers = [100 * fraction for fraction in fractions if fraction is not None]
    if not numbers:
        return "-"
    deviation = sample_deviation(numbers)
    return f"{np.mean(numbers):.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
