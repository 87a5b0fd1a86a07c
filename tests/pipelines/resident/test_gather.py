"""Padded crops of a resident set by PyTorch, against Pillow and torchvision."""

from __future__ import annotations

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageOps

from pipelines.resident.gather import gather_crops

PAD, HEIGHT, WIDTH = 3, 7, 5
COUNT, N, VIEWS = 6, 9, 2


def test_crops_are_those_of_padded_images() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (COUNT, HEIGHT, WIDTH, 3)).astype(np.uint8)
    indices = rng.integers(0, COUNT, N)
    offsets = rng.integers(0, 2 * PAD + 1, (N, VIEWS, 2))
    offsets[:4, 0] = [(0, 0), (0, 2 * PAD), (2 * PAD, 0), (2 * PAD, 2 * PAD)]
    flips = rng.random((N, VIEWS)) < 0.5
    ours = gather_crops(*map(torch.from_numpy, (pixels, indices, offsets, flips)), PAD)
    assert ours.shape == (VIEWS, N, HEIGHT, WIDTH, 3) and ours.dtype == torch.uint8
    for view in range(VIEWS):
        for i in range(N):
            padded = ImageOps.expand(Image.fromarray(pixels[indices[i]]), PAD)
            top, left = offsets[i, view].tolist()
            cut = TF.crop(padded, top, left, HEIGHT, WIDTH)
            expected = np.asarray(TF.hflip(cut) if flips[i, view] else cut)
            np.testing.assert_array_equal(ours[view, i].numpy(), expected)
