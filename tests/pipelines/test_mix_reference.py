"""The definition is checked pixel by pixel against a loop in float64, and against torchvision's Normalize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from torch import from_numpy

from pipelines.mix_reference import mix, normalise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_every_pixel_of_a_mixed_batch() -> None:
    n, height, width = 3, 5, 7
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (2, n, height, width, 3)).astype(np.uint8) for _ in range(2))
    lam = np.array([0.25, 1, 0], np.float32)
    boxes = np.array([[1, 2, 4, 6], [0, 0, 5, 7], [2, 3, 2, 3]], np.int32)
    images = mix(from_numpy(a), from_numpy(b), from_numpy(lam), from_numpy(boxes), MEAN, STD)
    assert images.shape == (2 * n, 3, height, width)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    for i, c, y, x in np.ndindex(n, 3, height, width):
        mixed_up = float(lam[i]) * int(a[0, i, y, x, c]) + (1 - float(lam[i])) * int(b[0, i, y, x, c])
        y0, x0, y1, x1 = boxes[i]
        cut_mixed = int((b if y0 <= y < y1 and x0 <= x < x1 else a)[1, i, y, x, c])
        assert float(images[i, c, y, x]) == pytest.approx((mixed_up / 255 - MEAN[c]) / STD[c], abs=1e-5)
        assert float(images[n + i, c, y, x]) == pytest.approx((cut_mixed / 255 - MEAN[c]) / STD[c], abs=1e-5)


def test_normalise_is_torchvisions() -> None:
    views = from_numpy(np.random.default_rng(1).integers(0, 256, (2, 4, 6, 3)).astype(np.uint8))
    images = normalise(views, MEAN, STD)
    expected = TF.normalize(views.permute(0, 3, 1, 2).float() / 255, MEAN, STD)
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images, expected)


def test_constants_may_be_tensors() -> None:
    views = from_numpy(np.random.default_rng(2).integers(0, 256, (2, 4, 6, 3)).astype(np.uint8))
    assert torch.equal(normalise(views, torch.tensor(MEAN), torch.tensor(STD)), normalise(views, MEAN, STD))


@pytest.mark.gpu
def test_the_host_does_not_wait_where_the_constants_are_on_the_device() -> None:
    device = torch.device("cuda", 0)
    views = torch.zeros((2, 3, 5, 7, 3), dtype=torch.uint8, device=device)
    lam, boxes = torch.ones(3, device=device), torch.zeros((3, 4), dtype=torch.int32, device=device)
    mean, std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        mix(views, views, lam, boxes, mean, std)
        with pytest.raises(RuntimeError, match="synchronizing"):  # so the test can fail
            mix(views, views, lam, boxes, MEAN, STD)
    finally:
        torch.cuda.set_sync_debug_mode("default")
