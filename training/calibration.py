"""Expected calibration error: how far confidence and accuracy lie apart, from sums that add up over ranks.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3: images are put into bins of equal
width by the confidence of their prediction, the largest softmax probability; the error is the mean over images
of |accuracy - confidence| of their bin. 15 bins, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15
"""Of equal width; bin m holds confidences in (m/15, (m+1)/15]."""


def new_bins(device: torch.device) -> Tensor:
    """Empty sums: (15, 3) float64, a row a bin: images, correct images, sum of confidences."""
    return torch.zeros(BINS, 3, dtype=torch.float64, device=device)


def add_confidences(bins: Tensor, logits: Tensor, labels: Tensor, counted: Tensor) -> None:
    """Add a batch to `bins` in place, on their device, without waiting for it.

    `logits` (N, C), `labels` (N,) int64, `counted` (N,) bool: rows that are False are padding.
    """
    confidence, predicted = logits.float().softmax(1).max(1)
    number = ((confidence * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    # A product with the bins' membership, not a scatter: on a GPU a scatter adds floats in any order.
    member = (number == torch.arange(BINS, device=number.device)[:, None]) & counted
    one = torch.ones_like(confidence)
    bins += member.double() @ torch.stack([one, predicted == labels, confidence], dim=1).double()


def calibration_error(bins: Tensor) -> float:
    """(15, 3) sums over all images -> the expected calibration error in [0, 1]; waits for the device."""
    images, correct, confidence = bins.T
    return float((correct - confidence).abs().sum() / images.sum())
