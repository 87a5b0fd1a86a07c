"""`decode` on the CPU, fast: each JPEG decoded once, and of it what the views need; then a resize a view.

Of a JPEG only the box is decoded that holds all its views (jpeg/decoder.py), or by TurboJPEG (jpeg/turbojpeg.py) if it
is of a rarer kind; either way the pixels are Pillow's exactly. resize_cpu.py is Pillow's bilinear within one level.
Both let go of the GIL. decode_reference.py says what the operation means.

What is noticed in a bad JPEG: whatever libjpeg calls an error (no JPEG, empty, bad header or tables) and data that
break off, were it by one byte. What is not: damage inside the compressed data, or a hole closed by an end marker, for
which libjpeg has a warning only, and no loader stops; the missing part is grey or wrong. To keep such files out is the
converter's task.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipelines.decode_reference import check_box
from pipelines.jpeg.decoder import Box, BoxDecoder
from pipelines.jpeg.turbojpeg import JpegDecoder, frame_size
from pipelines.resize_cpu import resize_into

CropBox = tuple[float, float, float, float]
"""A `Box` that may be fractional."""


class _Decoders(threading.local):
    """The decoders of the calling thread, which live as long as the thread."""

    def __init__(self) -> None:
        self.boxes = BoxDecoder()

    @cached_property
    def rows(self) -> JpegDecoder:
        """Made when it is needed: sets in memory are trained on without TurboJPEG's library."""
        return JpegDecoder()


_decoders = _Decoders()


class DecodeError(Exception):
    """A sample that is no whole JPEG; the loader, which knows the file, says which one it is."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"sample {position}: {reason}")
        self.position = position
        """Index of the sample in the list that was to be decoded."""
        self.reason = reason


def decode_into(
    samples: Sequence[NDArray[np.uint8]],
    boxes: NDArray[np.float64],
    flips: NDArray[np.bool_],
    out: NDArray[np.uint8],
    *,
    crop_first: bool = True,
) -> None:
    """Decode images in the calling thread; arguments as for `decode_reference.decode`.

    Args:
        out: (V, n, S, S, 3) uint8, strided at will; its rows after a bad sample are left as they were, so
            after an error nothing of it may be used.

    Raises:
        DecodeError: a sample is no whole JPEG.
        ValueError: a box is empty, leaves its image, or is fractional with `crop_first`.
    """
    for i, sample in enumerate(samples):
        height, width = sample.shape[:2] if sample.ndim == 3 else _size(sample, i)
        views: list[CropBox] = [tuple(box) for box in boxes[i].tolist()]
        for box in views:
            check_box(box, height, width, i, crop_first)
        shown = _around(views) if crop_first else _seen(views, out.shape[2], height, width)
        image = _decode_image(sample, height, width, shown, i)
        for v, box in enumerate(views):
            resize_into(image, shown, box, crop_first, flips[i, v], out[v, i])


def _around(boxes: list[CropBox]) -> Box:
    """Return the smallest box that holds boxes (y0, x0, y1, x1) of whole pixels."""
    y0, x0, y1, x1 = zip(*boxes, strict=True)
    return int(min(y0)), int(min(x0)), int(max(y1)), int(max(x1))


def _seen(boxes: list[CropBox], size: int, height: int, width: int) -> Box:
    """Return the part of an image that a filter sees, which views of boxes are resized with."""
    y0, x0, y1, x1 = (np.array(side) for side in zip(*boxes, strict=True))
    above, beside = np.maximum((y1 - y0) / size, 1), np.maximum((x1 - x0) / size, 1)
    top, left = (y0 - above).min(), (x0 - beside).min()
    bottom, right = (y1 + above).max(), (x1 + beside).max()
    return max(int(top), 0), max(int(left), 0), min(math.ceil(bottom), height), min(math.ceil(right), width)


def _size(sample: NDArray[np.uint8], position: int) -> tuple[int, int]:
    """Return (height, width) of a JPEG."""
    height, width = frame_size(sample)
    if height == 0 or width == 0:
        reason = "no bytes" if sample.size == 0 else "no frame header"
        raise DecodeError(position, f"not a readable JPEG ({reason})")
    return height, width


def _decode_image(
    sample: NDArray[np.uint8], height: int, width: int, box: Box, position: int
) -> NDArray[np.uint8]:
    """Return the pixels of a box of a sample, (h, w, 3) uint8, C-contiguous, valid until the next call."""
    y0, x0, y1, x1 = box
    if sample.ndim == 3:
        return np.ascontiguousarray(sample[y0:y1, x0:x1])
    pixels = _decoders.boxes.decode(sample, height, width, box)
    if pixels is not None:
        return pixels
    try:
        rows = _decoders.rows.decode(sample, height, width, y1)
    except ValueError as error:
        raise DecodeError(position, f"not a readable JPEG ({error})") from error
    return np.ascontiguousarray(rows[y0:y1, x0:x1])
