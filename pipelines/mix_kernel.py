"""`mix` on a GPU in one pass: uint8 views in, normalised channels-last images out; mix_reference.py defines it.

The pass is bound by memory, so a pixel's three bytes must not decide how memory is read: a channels-last image
is one stream of samples, cut into words of as many samples as fill 16 bytes of the output. A word starts at
any of the three channels, and everything that depends on its place (channel, row, cut box) is worked out once
a word. Triton reads a tile of words as 64-bit loads (for 16-bit output), since the mask is one bit a word. A fourth,
zero channel would make words of whole pixels, but a third more bytes to read, and loads are wide without it.

Under `TRITON_INTERPRET=1`, set before triton is imported, the same kernels run on CPU tensors.
"""

# A kernel has nothing to group its arguments in, and they have no Python types.
# ruff: noqa: PLR0913
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from pipelines.mix_reference import ChannelValues
from pipelines.user_error import UserError
from pipelines.views import Views

BYTES_OF_WORD = 16
"""Of the output: the widest store of a thread."""
WORDS = 256
"""Of one program: two for each thread of 4 warps, so that each has several loads in flight."""
WARPS = 4


def mix_views(
    views_a: Views,
    views_b: Views,
    lam: torch.Tensor,
    cut_boxes: torch.Tensor,
    mean: ChannelValues,
    std: ChannelValues,
    out: torch.Tensor,
) -> None:
    """Mix n pairs into `out`, on its device; nothing is allocated and the host does not wait.

    Args:
        views_a: two views (n, H, W, 3) uint8, strided at will in the first dimension; loads are wide where all
            addresses and strides are multiples of 16.
        views_b: the same of stream b.
        lam: (n,) float32 in [0, 1], contiguous.
        cut_boxes: (n, 4) int32 (y0, x0, y1, x1) inside the view, contiguous; not checked.
        mean: of each channel.
        std: of each channel.
        out: (2 n, 3, H, W) float32, bfloat16 or float16, dense in channels-last order: first the MixUp images.

    Raises:
        UserError: the tensors are not on a CUDA device, and Triton's interpreter is off.
    """
    (a1, a2), (b1, b2) = views_a, views_b
    n, height, width = a1.shape[:3]
    assert all(view.shape == (n, height, width, 3) for view in (a1, b1, a2, b2))
    check_mixing(lam, cut_boxes, n)
    word = check_target(out, (2 * n, 3, height, width))
    scale, shift = normalising_factors(mean, std)
    _mix_views[(n * chunks_of_image(height, width, word), 2)](
        *(view_memory(view) for view in (a1, b1, a2, b2)),
        (a1.stride(0), b1.stride(0), a2.stride(0), b2.stride(0)),
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


def normalise_views(views: torch.Tensor, mean: ChannelValues, std: ChannelValues, out: torch.Tensor) -> None:
    """Normalise views (n, H, W, 3) uint8, strided at will in the first dimension, into `out` as above."""
    n, height, width = views.shape[:3]
    word = check_target(out, (n, 3, height, width))
    scale, shift = normalising_factors(mean, std)
    _normalise_views[(n * chunks_of_image(height, width, word),)](
        view_memory(views),
        out,
        views.stride(0),
        scale,
        shift,
        HEIGHT=height,
        WIDTH=width,
        WORD=word,
        WORDS=WORDS,
        num_warps=WARPS,
    )


def check_mixing(lam: torch.Tensor, cut_boxes: torch.Tensor, n: int) -> None:
    """Check how n pairs are to be mixed: λ (n,) float32 and cut boxes (n, 4) int32, contiguous."""
    assert lam.shape == (n,) and lam.dtype == torch.float32 and lam.is_contiguous()
    assert cut_boxes.shape == (n, 4) and cut_boxes.dtype == torch.int32 and cut_boxes.is_contiguous()


def check_target(out: torch.Tensor, shape: tuple[int, ...]) -> int:
    """Check a batch that a kernel is to fill, and return how many of its samples are a word."""
    assert out.shape == shape and out.is_contiguous(memory_format=torch.channels_last)
    assert out.dtype in (torch.float32, torch.bfloat16, torch.float16)
    require_gpu(out)
    return BYTES_OF_WORD // out.element_size()


def require_gpu(tensor: torch.Tensor) -> None:
    """Raise UserError where a kernel cannot run on a tensor."""
    if not (tensor.is_cuda or isinstance(_mix_views, InterpretedFunction)):
        raise UserError(
            f"a Triton kernel was given tensors on {tensor.device.type}: it needs an NVIDIA GPU, "
            "or TRITON_INTERPRET=1 in the environment, which is for tests"
        )


def view_memory(views: torch.Tensor) -> torch.Tensor:
    """Check that each view (H, W, 3) uint8 is one run of bytes, and return the tensor."""
    assert views.dtype == torch.uint8 and views.stride()[-3:] == (3 * views.shape[-2], 3, 1)
    return views


def normalising_factors(mean: ChannelValues, std: ChannelValues) -> tuple[ChannelValues, ChannelValues]:
    """Return scale and shift: (x / 255 - mean) / std = x scale + shift."""
    scale = [1 / (255 * each) for each in std]
    shift = [-center / each for center, each in zip(mean, std, strict=True)]
    return (scale[0], scale[1], scale[2]), (shift[0], shift[1], shift[2])


def chunks_of_image(height: int, width: int, word: int) -> int:
    """Programs that share one image."""
    return -(-3 * height * width // (WORDS * word))


@triton.jit
def _mix_views(
    a1,
    b1,
    a2,
    b2,
    strides,
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
    view = tl.program_id(1).to(tl.int64)
    if view == 0:
        samples_a, samples_b = a1 + pair * strides[0] + offsets, b1 + pair * strides[1] + offsets
        mixed = _mix_up(samples_a, samples_b, lam + pair, valid)
    else:
        samples_a, samples_b = a2 + pair * strides[2] + offsets, b2 + pair * strides[3] + offsets
        mixed = _cut_mix(samples_a, samples_b, cut_boxes + 4 * pair, valid, starts, WIDTH, WORD, WORDS)
    store_normalised(out, view * n + pair, starts, mixed, valid, scale, shift, HEIGHT, WIDTH, WORD)


@triton.jit
def _mix_up(samples_a, samples_b, lam, valid):
    """Weighted mean of two chunks, float32."""
    weight = tl.load(lam)
    a = tl.load(samples_a, mask=valid, other=0).to(tl.float32)
    b = tl.load(samples_b, mask=valid, other=0).to(tl.float32)
    return weight * a + (1 - weight) * b


@triton.jit
def _cut_mix(
    samples_a,
    samples_b,
    box,
    valid,
    starts,
    WIDTH: tl.constexpr,
    WORD: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Chunk b inside the box and a outside it, float32; a word that lies on one side is read from one source."""
    inside, count = _inside_box(box, starts, WIDTH, WORD, WORDS)
    a = tl.load(samples_a, mask=valid & (count < WORD)[:, None], other=0)
    b = tl.load(samples_b, mask=valid & (count > 0)[:, None], other=0)
    return tl.where(inside, b, a).to(tl.float32)


@triton.jit
def _normalise_views(
    views,
    out,
    stride,
    scale,
    shift,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WORD: tl.constexpr,
    WORDS: tl.constexpr,
):
    """One chunk of one image."""
    image, starts, offsets, valid = place_of_program(HEIGHT, WIDTH, WORD, WORDS)
    samples = tl.load(views + image * stride + offsets, mask=valid, other=0).to(tl.float32)
    store_normalised(out, image, starts, samples, valid, scale, shift, HEIGHT, WIDTH, WORD)


@triton.jit
def place_of_program(HEIGHT: tl.constexpr, WIDTH: tl.constexpr, WORD: tl.constexpr, WORDS: tl.constexpr):
    """What a program works on, by its place on the first axis of the grid.

    Returns:
        The image (or pair), int64; the first sample of each word, (WORDS,) int32, counted from the image's start; all
        samples, (WORDS, WORD); and which of them exist.
    """
    CHUNKS: tl.constexpr = (3 * HEIGHT * WIDTH + WORDS * WORD - 1) // (WORDS * WORD)
    program = tl.program_id(0)
    image = program // CHUNKS
    starts = ((program - image * CHUNKS) * WORDS + tl.arange(0, WORDS)) * WORD
    offsets = starts[:, None] + tl.arange(0, WORD)[None, :]
    return image.to(tl.int64), starts, offsets, offsets < 3 * HEIGHT * WIDTH


@triton.jit
def _inside_box(box, starts, WIDTH: tl.constexpr, WORD: tl.constexpr, WORDS: tl.constexpr):
    """Which samples of each word lie in the cut box, (WORDS, WORD), and how many, (WORDS,).

    In each row that a word touches, the box is an interval of the word's samples; it ends before the row does.
    """
    LENGTH: tl.constexpr = 3 * WIDTH
    # a word that divides the row lies in one, else it may start at the last sample of one
    ROWS: tl.constexpr = 1 if LENGTH % WORD == 0 else 1 + (WORD - 2 + LENGTH) // LENGTH
    y0, x0, y1, x1 = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
    within = tl.arange(0, WORD)[None, :]
    row = starts // LENGTH
    start_of_row = row * LENGTH - starts
    inside = tl.zeros((WORDS, WORD), tl.int1)
    count = tl.zeros((WORDS,), tl.int32)
    for _ in tl.static_range(ROWS):
        first = start_of_row + 3 * x0
        last = tl.where((row >= y0) & (row < y1), start_of_row + 3 * x1, first)
        inside = inside | ((within >= first[:, None]) & (within < last[:, None]))
        count += tl.minimum(tl.maximum(last, 0), WORD) - tl.minimum(tl.maximum(first, 0), WORD)
        row += 1
        start_of_row += LENGTH
    return inside, count


@triton.jit
def store_normalised(
    out,
    image,
    starts,
    samples,
    valid,
    scale,
    shift,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WORD: tl.constexpr,
):
    """Write samples (WORDS, WORD) float32 of an image, each scaled and shifted as its channel asks."""
    # the factors of a word's first three samples, after which they repeat
    channel = (starts % 3)[:, None]
    scale_0 = tl.where(channel == 0, scale[0], tl.where(channel == 1, scale[1], scale[2]))
    scale_1 = tl.where(channel == 0, scale[1], tl.where(channel == 1, scale[2], scale[0]))
    scale_2 = tl.where(channel == 0, scale[2], tl.where(channel == 1, scale[0], scale[1]))
    shift_0 = tl.where(channel == 0, shift[0], tl.where(channel == 1, shift[1], shift[2]))
    shift_1 = tl.where(channel == 0, shift[1], tl.where(channel == 1, shift[2], shift[0]))
    shift_2 = tl.where(channel == 0, shift[2], tl.where(channel == 1, shift[0], shift[1]))
    within = tl.arange(0, WORD)[None, :]
    later = within % 3
    factor = tl.where(later == 0, scale_0, tl.where(later == 1, scale_1, scale_2))
    offset = tl.where(later == 0, shift_0, tl.where(later == 1, shift_1, shift_2))
    normalised = (samples * factor + offset).to(out.dtype.element_ty)
    target = out + image * (3 * HEIGHT * WIDTH) + (starts[:, None] + within)
    tl.store(target, normalised, mask=valid)
