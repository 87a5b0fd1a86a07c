"""Small sets on a GPU: from indices, offsets and flips to a mixed batch in one pass.

The whole set lies in device memory (images.py has it in the host's); a view is never written: the padded crop
is read where the mix needs it. Neighbouring samples of a crop come from any address, so bytes are loaded one by
one, which small images, being in the cache, allow; stores are as wide as in mix_kernel.py.
All that changes from step to step is a tensor on the device, so that a CUDA graph may hold the pass.
"""

# A kernel has nothing to group its arguments in, and they have no Python types.
# ruff: noqa: PLR0913
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pipelines.mix_kernel import (
    WARPS,
    WORDS,
    check_mixing,
    check_target,
    chunks_of_image,
    normalising_factors,
    place_of_program,
    store_normalised,
    view_memory,
)
from pipelines.mix_reference import ChannelValues


@dataclass(frozen=True)
class PaddedCrops:
    """Which V views of n images of a set are cut, and how; see `ResidentImages.padded_crop`."""

    indices: torch.Tensor
    """(n,) int64 or int32, contiguous; not checked."""
    offsets: torch.Tensor
    """(n, V, 2) int32 (dy, dx) in [0, 2 pad], contiguous; not checked."""
    flips: torch.Tensor
    """(n, V) bool, contiguous."""
    pad: int
    """Black border on each side, pixels."""

    def memory(self, n: int, views: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Check the tensors and return them as the kernels take them."""
        assert self.indices.shape == (n,) and self.indices.dtype in (torch.int64, torch.int32)
        assert self.offsets.shape == (n, views, 2) and self.offsets.dtype == torch.int32
        assert self.flips.shape == (n, views) and self.flips.dtype == torch.bool
        assert all(each.is_contiguous() for each in (self.indices, self.offsets, self.flips))
        return self.indices, self.offsets, self.flips


def mix_resident(
    images: torch.Tensor,
    crops_a: PaddedCrops,
    crops_b: PaddedCrops,
    lam: torch.Tensor,
    cut_boxes: torch.Tensor,
    mean: ChannelValues,
    std: ChannelValues,
    out: torch.Tensor,
) -> None:
    """Cut two views of each image of n pairs and mix them into `out`; see `mix_kernel.mix_views`.

    Args:
        images: (M, H, W, 3) uint8, contiguous: the set.
        crops_a: n images of stream a, V = 2.
        crops_b: the same of stream b, with the same border.
        lam: (n,) float32.
        cut_boxes: (n, 4) int32.
        mean: of each channel.
        std: of each channel.
        out: (2 n, 3, H, W), channels-last.

    Raises:
        UserError: the tensors are not on a CUDA device, and Triton's interpreter is off.
    """
    n, (height, width) = len(lam), images.shape[1:3]
    assert images.is_contiguous() and crops_a.pad == crops_b.pad
    check_mixing(lam, cut_boxes, n)
    word = check_target(out, (2 * n, 3, height, width))
    scale, shift = normalising_factors(mean, std)
    _mix_resident[(n * chunks_of_image(height, width, word), 2)](
        view_memory(images),
        crops_a.memory(n, 2),
        crops_b.memory(n, 2),
        crops_a.pad,
        lam,
        cut_boxes,
        out,
        n,
        scale,
        shift,
        HEIGHT=height,
        WIDTH=width,
        WORD=word,
        WORDS=WORDS,
        num_warps=WARPS,
    )


def normalise_resident(
    images: torch.Tensor, crops: PaddedCrops, mean: ChannelValues, std: ChannelValues, out: torch.Tensor
) -> None:
    """Cut one view (V = 1) of each of n images and normalise it into `out` (n, 3, H, W), channels-last."""
    n, (height, width) = len(crops.indices), images.shape[1:3]
    assert images.is_contiguous()
    word = check_target(out, (n, 3, height, width))
    scale, shift = normalising_factors(mean, std)
    _normalise_resident[(n * chunks_of_image(height, width, word),)](
        view_memory(images),
        crops.memory(n, 1),
        crops.pad,
        out,
        scale,
        shift,
        HEIGHT=height,
        WIDTH=width,
        WORD=word,
        WORDS=WORDS,
        num_warps=WARPS,
    )


@triton.jit
def _mix_resident(
    images,
    crops_a,
    crops_b,
    pad,
    lam,
    cut_boxes,
    out,
    n,
    scale,
    shift,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WORD: tl.constexpr,
    WORDS: tl.constexpr,
):
    """One chunk of one mixed image: the MixUp image of the pair for view 0, else the CutMix image."""
    pair, starts, offsets, valid = place_of_program(HEIGHT, WIDTH, WORD, WORDS)
    view = tl.program_id(1)
    place = 2 * pair + view
    if view == 0:
        weight = tl.load(lam + pair)
        a = _crop(images, crops_a, pair, place, pad, offsets, valid, HEIGHT, WIDTH).to(tl.float32)
        b = _crop(images, crops_b, pair, place, pad, offsets, valid, HEIGHT, WIDTH).to(tl.float32)
        mixed = weight * a + (1 - weight) * b
    else:
        box = cut_boxes + 4 * pair
        y, x = offsets // (3 * WIDTH), offsets % (3 * WIDTH) // 3
        inside = (
            (y >= tl.load(box)) & (y < tl.load(box + 2)) & (x >= tl.load(box + 1)) & (x < tl.load(box + 3))
        )
        # one of the two is not read, and 0
        outer = _crop(images, crops_a, pair, place, pad, offsets, valid & (inside == 0), HEIGHT, WIDTH)
        inner = _crop(images, crops_b, pair, place, pad, offsets, valid & inside, HEIGHT, WIDTH)
        mixed = (outer + inner).to(tl.float32)
    store_normalised(out, view * n + pair, starts, mixed, valid, scale, shift, HEIGHT, WIDTH, WORD)


@triton.jit
def _normalise_resident(
    images,
    crops,
    pad,
    out,
    scale,
    shift,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WORD: tl.constexpr,
    WORDS: tl.constexpr,
):
    """One chunk of one image."""
    image, starts, offsets, valid = place_of_program(HEIGHT, WIDTH, WORD, WORDS)
    samples = _crop(images, crops, image, image, pad, offsets, valid, HEIGHT, WIDTH).to(tl.float32)
    store_normalised(out, image, starts, samples, valid, scale, shift, HEIGHT, WIDTH, WORD)


@triton.jit
def _crop(images, crops, row, place, pad, offsets, wanted, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Samples of a view, uint8; 0 on the border and where they are not wanted.

    `row` is that of the image's index in the draws, `place` that of the view's offset and flip.
    """
    indices, corners, flips = crops
    image = images + tl.load(indices + row).to(tl.int64) * (3 * HEIGHT * WIDTH)
    x = offsets % (3 * WIDTH) // 3
    x = tl.where(tl.load(flips + place), WIDTH - 1 - x, x) + tl.load(corners + 2 * place + 1) - pad
    y = offsets // (3 * WIDTH) + tl.load(corners + 2 * place) - pad
    inside = (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    return tl.load(image + (y * WIDTH + x) * 3 + offsets % 3, mask=wanted & inside, other=0)
