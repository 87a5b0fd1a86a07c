"""The expected calibration error against a loop over images and bins in float64, by hand, and its extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.calibration import add_confidences, calibration_error, new_bins

CPU = torch.device("cpu")


def measure(*batches: tuple[Tensor, Tensor, Tensor]) -> float:
    bins = new_bins(CPU)
    for batch in batches:
        add_confidences(bins, *batch)
    return calibration_error(bins)


def test_batches_equal_a_loop_over_images() -> None:
    draws = torch.Generator().manual_seed(0)
    batches = []
    for n in (230, 41, 1):
        logits = 3 * torch.randn(n, 7, generator=draws)
        labels = torch.randint(7, (n,), generator=draws)
        batches.append((logits, labels, torch.rand(n, generator=draws) < 0.7))
    by_bin: dict[int, list[tuple[float, bool]]] = {}
    images = 0
    for batch in batches:
        for row, label, counted in zip(*(part.tolist() for part in batch), strict=True):
            if counted:
                confidence = math.exp(max(row)) / sum(math.exp(value) for value in row)
                bin_ = next(m for m in range(15) if m / 15 < confidence <= (m + 1) / 15)
                by_bin.setdefault(bin_, []).append((confidence, row.index(max(row)) == label))
                images += 1
    expected = 0.0
    for members in by_bin.values():
        accuracy = sum(right for _, right in members) / len(members)
        confidence = sum(value for value, _ in members) / len(members)
        expected += len(members) / images * abs(accuracy - confidence)
    assert len(by_bin) > 9
    assert images < 272
    assert 0.2 < expected < 0.9
    assert measure(*batches) == pytest.approx(expected, abs=1e-6)
    assert measure(*batches) == pytest.approx(measure(tuple(map(torch.cat, zip(*batches, strict=True)))))


def test_many_images_do_not_swallow_one() -> None:
    """Beyond 2^24 a float32 sum no longer moves by 1; no set is that large, but sums of confidences round before."""
    bins = new_bins(CPU)
    bins[14] = 2**24
    add_confidences(bins, torch.tensor([[90.0, 0.0]]), torch.tensor([0]), torch.tensor([True]))
    assert bins[14].tolist() == [2**24 + 1] * 3


def logits_of(*probabilities: float) -> Tensor:
    """Two classes; the first has these probabilities."""
    first = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([first, 1 - first], dim=1).log()


def test_by_hand() -> None:
    """Confidences 0.9 (right), 0.91 (wrong) in bin 13, 0.62 (right) in bin 9; the fourth does not count.

    Bin 13: |1/2 - 0.905| over 2 of 3 images; bin 9: |1 - 0.62| over 1 of 3.
    """
    labels = torch.tensor([0, 1, 1, 0])
    counted = torch.tensor([True, True, True, False])
    error = measure((logits_of(0.9, 0.91, 0.38, 0.5), labels, counted))
    assert error == pytest.approx((2 * 0.405 + 0.38) / 3, abs=1e-6)


def test_certain_and_right_is_0_certain_and_wrong_is_1() -> None:
    """A confidence of exactly 1 belongs to the last bin."""
    logits, counted = torch.tensor([[90.0, 0.0], [0.0, 90.0]]), torch.tensor([True, True])
    assert measure((logits, torch.tensor([0, 1]), counted)) == 0
    assert measure((logits, torch.tensor([1, 0]), counted)) == 1


def test_a_border_belongs_to_the_bin_below() -> None:
    """Confidences 1/5 = 3/15 (right) and 1/6 (wrong) share bin 2: |1/2 - (1/5 + 1/6)/2|."""
    logits = torch.zeros(2, 6)
    logits[0, 5] = -math.inf
    error = measure((logits, torch.tensor([0, 3]), torch.tensor([True, True])))
    assert error == pytest.approx(0.5 - (1 / 5 + 1 / 6) / 2, abs=1e-6)


def test_half_precision_is_measured_in_full() -> None:
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).bfloat16()
    labels, counted = torch.arange(50) % 3, torch.ones(50, dtype=torch.bool)
    assert measure((logits, labels, counted)) == measure((logits.float(), labels, counted))


def test_logits_that_are_no_numbers_show() -> None:
    logits = torch.tensor([[0.3, math.nan], [1.0, 0.0]])
    assert math.isnan(measure((logits, torch.tensor([0, 0]), torch.tensor([True, True]))))
