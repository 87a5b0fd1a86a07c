"""`augment` on a GPU, in place, every view with its own parameters; augment_reference.py defines it.

Pillow's arithmetic, step by step, as in augment_cpu.py: whole levels after each operation. Here they are float32,
which hold every intermediate exactly (a luminance before its shift is below 2^24). Multiplications and additions
are not fused, since Pillow's are not, and cutting off a fraction makes a level out of the last bit.

Contrast is about the view's mean luminance, so one program makes one view: it adds up the luminances that contrast
will see, then changes the colours. The blur is six launches of one box blur, over the blurred views alone. The views
of a batch may lie in several tensors: one launch has them all, and a program looks up which one holds its view.
"""

# A kernel has nothing to group its arguments in, and they have no Python types.
# ruff: noqa: PLR0913
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from pipelines.augment_cpu import CONTRAST, SATURATION
from pipelines.batch import send
from pipelines.blur_cpu import BOX_BLURS, box_weights
from pipelines.draws.colours import ColourDraws
from pipelines.mix_kernel import WARPS, WORDS, chunks_of_image, place_of_program, require_gpu
from pipelines.views import Views

PIXELS_AT_ONCE = 1024
"""Of one view, in one turn of the colour kernel's loops."""
WORD_OF_ROWS, WORD_OF_COLUMNS = 4, 16
"""Bytes of a thread in a box blur: along a row each neighbour is a load of one byte, which should lie close to
those of other threads; along a column 16 neighbours are one load."""


@dataclass(frozen=True)
class ColourParameters:
    """What is drawn for the m = V n views of a batch, on the device: those of the first tensor, then of the next."""

    order: torch.Tensor
    """(m, 3) uint8: operations, first to last, as in `ColourDraws`."""
    factors: torch.Tensor
    """(m, 3) float32: of brightness, contrast and saturation."""
    gray: torch.Tensor
    """(m,) bool."""
    blurred: torch.Tensor
    """(k,) int32: which views are blurred."""
    boxes: torch.Tensor
    """(k, 3) int32: of each of them inner weight, outer weight and radius, as in `blur_cpu.box_weights`."""


def colour_parameters(colours: Sequence[ColourDraws], device: torch.device) -> ColourParameters:
    """Bring draws to the device, one for each group of views, in the order of the views."""
    jitter = [[each.brightness, each.contrast, each.saturation] for each in colours]
    sigma = np.concatenate([each.blur_sigma for each in colours])
    blurred = np.flatnonzero(sigma)
    arrays = (
        np.concatenate([each.order for each in colours]),
        np.concatenate([np.stack(factors, axis=1) for factors in jitter]),
        np.concatenate([each.gray for each in colours]),
        blurred.astype(np.int32),
        np.stack(box_weights(sigma[blurred]), axis=1).astype(np.int32),
    )
    return ColourParameters(*(send(torch.from_numpy(each), device) for each in arrays))


def augment_on_device(views: Views, colour: ColourParameters) -> None:
    """Change the colours of V views (n, H, W, 3) uint8, each contiguous, in place.

    Raises:
        UserError: the tensors are not on a CUDA device, and Triton's interpreter is off.
    """
    n, height, width = views[0].shape[:3]
    for view in views:
        assert view.shape == (n, height, width, 3) and view.dtype == torch.uint8 and view.is_contiguous()
        require_gpu(view)
    assert len(colour.order) == len(views) * n
    assert height * width <= 2**22  # so that the sum of a view's luminances fits 32 bits, twice
    if n == 0:
        return
    _change_colours[(len(views) * n,)](
        tuple(views),
        n,
        colour.order,
        colour.factors,
        colour.gray,
        PIXELS=height * width,
        BLOCK=PIXELS_AT_ONCE,
        enable_fp_fusion=False,
        num_warps=2 * WARPS,
    )
    if len(colour.blurred) > 0:
        _blur(views, colour)


def _blur(views: Views, colour: ColourParameters) -> None:
    """Blur some of the views: back and forth between them and a scratch tensor, an even number of times."""
    n, height, width = views[0].shape[:3]
    scratch = views[0].new_empty((len(colour.blurred), height, width, 3))
    for turn in range(2 * BOX_BLURS):
        along_rows = turn < BOX_BLURS
        word = WORD_OF_ROWS if along_rows else WORD_OF_COLUMNS
        _box_blur[(len(scratch) * chunks_of_image(height, width, word),)](
            tuple(views),
            n,
            scratch,
            colour.blurred,
            colour.boxes,
            ALONG_ROWS=along_rows,
            INTO_VIEWS=turn % 2 == 1,
            HEIGHT=height,
            WIDTH=width,
            WORD=word,
            WORDS=WORDS,
            num_warps=WARPS,
        )


@triton.jit
def _change_colours(views, n, order, factors, gray, PIXELS: tl.constexpr, BLOCK: tl.constexpr):
    """Jitter, then grayscale, of one view."""
    view = tl.program_id(0)
    samples = _memory_of_view(views, n, view, 3 * PIXELS)
    first = tl.load(order + 3 * view)
    second = tl.load(order + 3 * view + 1)
    third = tl.load(order + 3 * view + 2)
    factor_1 = tl.load(factors + 3 * view + first)
    factor_2 = tl.load(factors + 3 * view + second)
    factor_3 = tl.load(factors + 3 * view + third)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, PIXELS, BLOCK):
        red, green, blue, valid = _load_pixels(samples, start, PIXELS, BLOCK)
        if first != _CONTRAST:
            red, green, blue = _adjust(red, green, blue, first, factor_1, 0.0)
            if second != _CONTRAST:
                red, green, blue = _adjust(red, green, blue, second, factor_2, 0.0)
        total += tl.where(valid, _luminance(red, green, blue), 0.0)
    mean = ((2 * tl.sum(total.to(tl.int32), 0) + PIXELS) // (2 * PIXELS)).to(tl.float32)
    is_gray = tl.load(gray + view)
    for start in range(0, PIXELS, BLOCK):
        red, green, blue, valid = _load_pixels(samples, start, PIXELS, BLOCK)
        red, green, blue = _adjust(red, green, blue, first, factor_1, mean)
        red, green, blue = _adjust(red, green, blue, second, factor_2, mean)
        red, green, blue = _adjust(red, green, blue, third, factor_3, mean)
        luminance = _luminance(red, green, blue)
        pixels = samples + 3 * (start + tl.arange(0, BLOCK))
        tl.store(pixels, tl.where(is_gray, luminance, red).to(tl.uint8), mask=valid)
        tl.store(pixels + 1, tl.where(is_gray, luminance, green).to(tl.uint8), mask=valid)
        tl.store(pixels + 2, tl.where(is_gray, luminance, blue).to(tl.uint8), mask=valid)


@triton.jit
def _memory_of_view(views, n, view, SAMPLES: tl.constexpr):
    """Where view 0 to V n - 1 begins: n lie in each tensor, one after the other."""
    memory = views[0]
    for v in tl.static_range(1, len(views)):
        memory = tl.where(view >= v * n, views[v], memory)
    return memory + (view % n).to(tl.int64) * SAMPLES


_CONTRAST = tl.constexpr(CONTRAST)
_SATURATION = tl.constexpr(SATURATION)


@triton.jit
def _load_pixels(samples, start, PIXELS: tl.constexpr, BLOCK: tl.constexpr):
    """Red, green and blue of some pixels as whole levels in float32, and which of the pixels exist."""
    places = start + tl.arange(0, BLOCK)
    valid = places < PIXELS
    red = tl.load(samples + 3 * places, mask=valid, other=0).to(tl.float32)
    green = tl.load(samples + 3 * places + 1, mask=valid, other=0).to(tl.float32)
    blue = tl.load(samples + 3 * places + 2, mask=valid, other=0).to(tl.float32)
    return red, green, blue, valid


@triton.jit
def _luminance(red, green, blue):
    """Pillow's, in 16 fixed bits, rounded to a whole level."""
    return tl.floor((19595 * red + 38470 * green + 7471 * blue + 32768) * (1 / 65536))


@triton.jit
def _adjust(red, green, blue, operation, factor, mean):
    """One operation of the jitter: move each level away from, or to, that of a picture without it."""
    origin = tl.where(operation == _CONTRAST, mean, 0.0)
    origin = tl.where(operation == _SATURATION, _luminance(red, green, blue), origin)
    # clamped, then the fraction cut off
    return (
        tl.floor(tl.clamp(origin + factor * (red - origin), 0.0, 255.0)),
        tl.floor(tl.clamp(origin + factor * (green - origin), 0.0, 255.0)),
        tl.floor(tl.clamp(origin + factor * (blue - origin), 0.0, 255.0)),
    )


@triton.jit
def _box_blur(
    views,
    n,
    scratch,
    blurred,
    boxes,
    ALONG_ROWS: tl.constexpr,
    INTO_VIEWS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WORD: tl.constexpr,
    WORDS: tl.constexpr,
):
    """One chunk of one view, blurred along rows or columns; the border pixel stands for those beyond it."""
    which, starts, offsets, valid = place_of_program(HEIGHT, WIDTH, WORD, WORDS)
    inner = tl.load(boxes + 3 * which).to(tl.uint32)
    outer = tl.load(boxes + 3 * which + 1).to(tl.uint32)
    radius = tl.load(boxes + 3 * which + 2)
    view = _memory_of_view(views, n, tl.load(blurred + which), 3 * HEIGHT * WIDTH)
    spare = scratch + which * (3 * HEIGHT * WIDTH)
    source, target = (spare, view) if INTO_VIEWS else (view, spare)
    STEP: tl.constexpr = 3 if ALONG_ROWS else 3 * WIDTH
    LAST: tl.constexpr = WIDTH - 1 if ALONG_ROWS else HEIGHT - 1
    if ALONG_ROWS:
        place = offsets // 3 % WIDTH
    elif 3 * WIDTH % WORD == 0:
        place = starts[:, None] // (3 * WIDTH)  # the word lies in one row, and is loaded as one
    else:
        place = offsets // (3 * WIDTH)
    window = _neighbours(source, starts, place, 0, STEP, LAST, WORD, valid)
    distance = radius
    while distance > 0:  # the interpreter refuses a range to a loaded number
        window += _neighbours(source, starts, place, -distance, STEP, LAST, WORD, valid)
        window += _neighbours(source, starts, place, distance, STEP, LAST, WORD, valid)
        distance -= 1
    ends = _neighbours(source, starts, place, -radius - 1, STEP, LAST, WORD, valid)
    ends += _neighbours(source, starts, place, radius + 1, STEP, LAST, WORD, valid)
    rounded = (window * inner + ends * outer + (1 << 23)) >> 24
    tl.store(target + offsets, rounded.to(tl.uint8), mask=valid)


@triton.jit
def _neighbours(
    source, starts, place, distance, STEP: tl.constexpr, LAST: tl.constexpr, WORD: tl.constexpr, valid
):
    """The samples at a distance from each, uint32."""
    moved = tl.minimum(tl.maximum(place + distance, 0), LAST) - place
    words = source + starts[:, None] + moved * STEP
    return tl.load(words + tl.arange(0, WORD)[None, :], mask=valid, other=0).to(tl.uint32)
