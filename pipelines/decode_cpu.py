"""`decode` on the CPU, fast: each JPEG decoded once, then one vectorised resize a view, on plain threads.

Of a JPEG only the box is decoded that holds all its views (jpeg_decoder.py), or by TurboJPEG (turbojpeg.py) if it is
of a rarer kind; either way the pixels are Pillow's exactly. PyTorch's
antialiased `interpolate` is Pillow's bilinear within one level, and stays in uint8 and in vector registers as long as
it is given a true channels-last image. decode_reference.py says what the operation means.

What is noticed in a bad JPEG: whatever libjpeg calls an error (no JPEG, empty, bad header or tables) and data that
break off, were it by one byte. What is not: damage inside the compressed data, or a hole closed by an end marker, for
which libjpeg has a warning only, and no loader stops; the missing part is grey or wrong. To keep such files out is the
converter's task.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from numpy.typing import NDArray
from PIL import Image

from pipelines.decode_reference import check_box
from pipelines.jpeg_decoder import Box, BoxDecoder
from pipelines.thread_pool import ThreadPool
from pipelines.turbojpeg import JpegDecoder, frame_size

IMAGES_PER_TASK = 4
"""Few enough to end together on many threads, many enough that handing over a task does not count."""


class _Decoders(threading.local):
    """The decoders of the calling thread, which live as long as the thread."""

    def __init__(self) -> None:
        self.boxes = BoxDecoder()
        self.rows = JpegDecoder()


_decoders = _Decoders()


class DecodeError(Exception):
    """A sample that is no whole JPEG; the loader, which knows the file, says which one it is."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"sample {position}: {reason}")
        self.position = position
        """Index of the sample in the list that was to be decoded."""
        self.reason = reason


class CpuDecoder:
    """Decodes whole batches on a pool of threads."""

    def __init__(self, pool: ThreadPool) -> None:
        self.pool = pool

    def decode(
        self,
        samples: Sequence[NDArray[np.uint8]],
        boxes: NDArray[np.float64],
        flips: NDArray[np.bool_],
        size: int,
        *,
        crop_first: bool = True,
    ) -> NDArray[np.uint8]:
        """As `decode_reference.decode`, within one level; raises `DecodeError` for a bad JPEG."""
        n, views = flips.shape
        out = np.empty((views, n, size, size, 3), np.uint8)

        def decode_slice(start: int, stop: int) -> None:
            part = slice(start, stop)
            decode_into(
                samples[part], boxes[part], flips[part], out[:, part], crop_first=crop_first, first=start
            )

        self.pool.map_slices(decode_slice, n, IMAGES_PER_TASK)
        return out


def decode_into(
    samples: Sequence[NDArray[np.uint8]],
    boxes: NDArray[np.float64],
    flips: NDArray[np.bool_],
    out: NDArray[np.uint8],
    *,
    crop_first: bool = True,
    first: int = 0,
) -> None:
    """Decode a slice of a batch in the calling thread; arguments as for `decode_reference.decode`.

    Args:
        out: (V, n, S, S, 3) uint8, strided at will; its rows after a bad sample are left as they were, so
            after an error nothing of it may be used.
        first: position of the slice's first sample in the batch, for messages.

    Raises:
        DecodeError: a sample is no whole JPEG.
        ValueError: a box is empty, leaves its image, or is fractional with `crop_first`.
    """
    size = out.shape[2]
    target = torch.from_numpy(out)
    with torch.inference_mode():
        for i, sample in enumerate(samples):
            height, width = sample.shape[:2] if sample.ndim == 3 else _size(sample, first + i)
            views: list[list[float]] = boxes[i].tolist()
            for box in views:
                check_box(box, height, width, first + i, crop_first)
            shown = _around(views) if crop_first else (0, 0, height, width)
            image = _decode_image(sample, height, width, shown, first + i)
            for v, box in enumerate(views):
                view = (
                    _crop(image, box, shown, size)
                    if crop_first
                    else _crop_with_surroundings(image, box, size)
                )
                if flips[i, v]:
                    _mirror(view.numpy(), out[v, i])
                else:
                    target[v, i].copy_(view)


def _around(boxes: list[list[float]]) -> Box:
    """Return the smallest box that holds boxes (y0, x0, y1, x1) of whole pixels."""
    y0, x0, y1, x1 = zip(*boxes, strict=True)
    return int(min(y0)), int(min(x0)), int(max(y1)), int(max(x1))


def _size(sample: NDArray[np.uint8], position: int) -> tuple[int, int]:
    """Return (height, width) of a JPEG."""
    height, width = frame_size(sample)
    if height == 0 or width == 0:
        reason = "no bytes" if sample.size == 0 else "no frame header"
        raise DecodeError(position, f"not a readable JPEG ({reason})")
    return height, width


def _decode_image(
    sample: NDArray[np.uint8], height: int, width: int, box: Box, position: int
) -> torch.Tensor:
    """Return the pixels of a box of a sample, (h, w, 3) uint8, valid until the next call."""
    y0, x0, y1, x1 = box
    if sample.ndim == 3:
        # a copy, for PyTorch takes no read-only memory without a warning
        return torch.from_numpy(np.array(sample[y0:y1, x0:x1]))
    pixels = _decoders.boxes.decode(sample, height, width, box)
    if pixels is None:
        try:
            pixels = _decoders.rows.decode(sample, height, width, y1)[y0:y1, x0:x1]
        except ValueError as error:
            raise DecodeError(position, f"not a readable JPEG ({error})") from error
    return torch.from_numpy(pixels)


def _crop(image: torch.Tensor, box: Sequence[float], shown: Box, size: int) -> torch.Tensor:
    """Crop an image of which only the box `shown` is there, then resize to (size, size, 3)."""
    y0, x0, y1, x1 = (int(side) for side in box)
    top, left, _, _ = shown
    # First the batch dimension, then the permutation: the other way round the strides are not those of a
    # channels-last tensor, and the resize would change the layout of its result, at 70 µs a view.
    crop = image[y0 - top : y1 - top, x0 - left : x1 - left][None].permute(0, 3, 1, 2)
    view = F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True)
    return view.permute(0, 2, 3, 1)[0]


def _crop_with_surroundings(image: torch.Tensor, box: Sequence[float], size: int) -> torch.Tensor:
    """Resize a part of the image, whose surroundings the filter sees, to (size, size, 3)."""
    y0, x0, y1, x1 = box
    whole = Image.fromarray(image.numpy())
    view = whole.resize((size, size), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
    return torch.from_numpy(np.array(view))


@njit(nogil=True, cache=True)
def _mirror(view: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Copy a view (h, w, 3) to `out` left-right mirrored; PyTorch's `flip` takes several times as long."""
    last = np.uint64(3 * (view.shape[1] - 1))
    for y in range(len(view)):
        row, mirrored = view[y].reshape(-1), out[y].reshape(-1)
        for x in range(np.uint64(view.shape[1])):
            here = np.uint64(3) * x
            there = last - here
            for channel in range(np.uint64(3)):
                mirrored[here + channel] = row[there + channel]
