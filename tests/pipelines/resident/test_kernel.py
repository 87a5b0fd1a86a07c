"""The kernel for small sets, interpreted on a CPU, compiled for GPUs, and (marked gpu) run on one.

What it must give: torchvision's padded crop and flip of Pillow images, then the mix in float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageOps
from torch import from_numpy

from pipelines.mix_kernel import WARPS, WORDS
from pipelines.resident.kernel import (
    PaddedCrops,
    _mix_resident,
    _normalise_resident,
    mix_resident,
    normalise_resident,
)
from pipelines.user_error import UserError

MEAN, STD = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)
PAD = 3


def _images(count: int, height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(1, 256, (count, height, width, 3))
    return from_numpy(pixels.astype(np.uint8))


def _crops(n: int, views: int, count: int, seed: int) -> PaddedCrops:
    """Every corner of the border first, then random ones."""
    rng = np.random.default_rng(seed)
    offsets = rng.integers(0, 2 * PAD + 1, (n, views, 2))
    offsets[:4, 0] = [(0, 0), (0, 2 * PAD), (2 * PAD, 0), (2 * PAD, 2 * PAD)][:n]
    return PaddedCrops(
        indices=from_numpy(rng.integers(0, count, n)),
        offsets=from_numpy(offsets.astype(np.int32)),
        flips=from_numpy(rng.random((n, views)) < 0.5),
        pad=PAD,
    )


def _slow_views(images: torch.Tensor, crops: PaddedCrops, view: int) -> np.ndarray:
    """(n, H, W, 3) with Pillow and torchvision."""
    height, width = images.shape[1:3]
    views = []
    for index, offset, flip in zip(crops.indices, crops.offsets[:, view], crops.flips[:, view], strict=True):
        padded = ImageOps.expand(Image.fromarray(images[index].numpy()), PAD)
        cut = TF.crop(padded, int(offset[0]), int(offset[1]), height, width)
        views.append(np.asarray(TF.hflip(cut) if flip else cut))
    return np.stack(views)


def _normalised(views: np.ndarray) -> np.ndarray:
    return ((views / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)


def _slow_mix(
    images: torch.Tensor, a: PaddedCrops, b: PaddedCrops, lam: torch.Tensor, boxes: torch.Tensor
) -> np.ndarray:
    weight = lam.double().numpy()[:, None, None, None]
    mixed_up = weight * _slow_views(images, a, 0) + (1 - weight) * _slow_views(images, b, 0)
    cut_mixed, patches = _slow_views(images, a, 1), _slow_views(images, b, 1)
    for image, patch, (y0, x0, y1, x1) in zip(cut_mixed, patches, boxes.tolist(), strict=True):
        image[y0:y1, x0:x1] = patch[y0:y1, x0:x1]
    return _normalised(np.concatenate([mixed_up, cut_mixed]))


def _unwritten(n: int, height: int, width: int, device: str = "cpu") -> torch.Tensor:
    return torch.full((n, height, width, 3), np.nan, device=device).permute(0, 3, 1, 2)


def _boxes(n: int, height: int, width: int) -> torch.Tensor:
    """Empty, full, and then random ones."""
    rng = np.random.default_rng(3)
    rows = np.sort(rng.integers(0, height + 1, (n, 2)), axis=1)
    columns = np.sort(rng.integers(0, width + 1, (n, 2)), axis=1)
    boxes = np.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], axis=1)
    boxes[:2] = [(0, 0, 0, 0), (0, 0, height, width)]
    return from_numpy(boxes.astype(np.int32))


@pytest.mark.parametrize(("n", "height", "width"), [(7, 5, 8), (6, 9, 13), (5, 2, 1), (12, 32, 32)])
def test_mixed_crops_are_those_of_torchvision_on_pillow_images(
    interpreted: Callable[..., None], n: int, height: int, width: int
) -> None:
    images = _images(11, height, width)
    a, b = _crops(n, 2, 11, seed=1), _crops(n, 2, 11, seed=2)
    lam, boxes = torch.linspace(0, 1, n), _boxes(n, height, width)
    out = _unwritten(2 * n, height, width)
    interpreted(mix_resident, images, a, b, lam, boxes, MEAN, STD, out)
    np.testing.assert_allclose(out.numpy(), _slow_mix(images, a, b, lam, boxes), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_plain_crops_are_those_of_torchvision(interpreted: Callable[..., None], dtype: torch.dtype) -> None:
    images, drawn = _images(5, 6, 7), _crops(9, 1, 5, seed=4)
    crops = PaddedCrops(drawn.indices.to(dtype), drawn.offsets, drawn.flips, PAD)
    out = _unwritten(9, 6, 7)
    interpreted(normalise_resident, images, crops, MEAN, STD, out)
    np.testing.assert_allclose(out.numpy(), _normalised(_slow_views(images, crops, 0)), atol=2e-6)


def test_without_a_border_a_crop_is_the_image(interpreted: Callable[..., None]) -> None:
    images = _images(3, 4, 5)
    order, zeros = torch.tensor([2, 0]), torch.zeros((2, 1, 2), dtype=torch.int32)
    out = _unwritten(2, 4, 5)
    crops = PaddedCrops(order, zeros, torch.zeros((2, 1), dtype=torch.bool), 0)
    interpreted(normalise_resident, images, crops, MEAN, STD, out)
    np.testing.assert_allclose(out.numpy(), _normalised(images[order].numpy()), atol=2e-6)


def test_tensors_of_a_cpu_are_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"given tensors on cpu: it needs an NVIDIA GPU"):
        normalise_resident(_images(3, 4, 5), _crops(2, 1, 3, 0), MEAN, STD, _unwritten(2, 4, 5))


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("dtype", "word"), [("fp32", 4), ("bf16", 8), ("fp16", 8)])
def test_stores_are_wide(compiled: Callable[..., str], arch: int, dtype: str, word: int) -> None:
    size = {"HEIGHT": 32, "WIDTH": 32, "WORD": word, "WORDS": WORDS}
    crops, factors = ("*i64", "*i32", "*u1"), {"scale": ("fp32",) * 3, "shift": ("fp32",) * 3}
    out = {"out": f"*{dtype}"}
    mixed = {
        "images": "*u8",
        "crops_a": crops,
        "crops_b": crops,
        "pad": "i32",
        "lam": "*fp32",
        "cut_boxes": "*i32",
    }
    plain = {"images": "*u8", "crops": crops, "pad": "i32"}
    for kernel, types in ((_mix_resident, mixed | out | {"n": "i32"}), (_normalise_resident, plain | out)):
        ptx = compiled(kernel, arch, types | factors, size, set(types) - {"pad", "n"}, num_warps=WARPS)
        assert set(re.findall(r"st\.global\S*", ptx)) == {"st.global.v4.b32"}


@pytest.mark.gpu
def test_a_graph_cuts_and_mixes_with_new_draws() -> None:
    n, images = 24, _images(50, 32, 32)
    first, a, b = (_crops(n, 2, 50, seed=seed) for seed in (7, 8, 9))
    lam, boxes = torch.linspace(0, 1, n), _boxes(n, 32, 32)

    def on_device(crops: PaddedCrops) -> PaddedCrops:
        return PaddedCrops(crops.indices.cuda(), crops.offsets.cuda(), crops.flips.cuda(), PAD)

    held_a, held_b = on_device(first), on_device(first)
    out = _unwritten(2 * n, 32, 32, "cuda")
    arguments = (images.cuda(), held_a, held_b, lam.cuda(), boxes.cuda(), MEAN, STD, out)
    mix_resident(*arguments)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mix_resident(*arguments)
    for held, drawn in ((held_a, a), (held_b, b)):
        for name in ("indices", "offsets", "flips"):
            getattr(held, name).copy_(getattr(drawn, name))
    graph.replay()
    np.testing.assert_allclose(out.cpu().numpy(), _slow_mix(images, a, b, lam, boxes), atol=2e-6)
