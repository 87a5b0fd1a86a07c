"""JPEG to RGB with TurboJPEG, the library that FFCV is built against, called through ctypes.

It gives Pillow's pixels exactly (accurate DCT, smooth chroma). Against torchvision's `decode_jpeg`, which is
libjpeg-turbo too, it saves three things: pixels go into memory that is used again and again, nothing is printed
or lost of libjpeg's warnings, and *rows that nobody looks at are not decoded*. For the last the frame header of a
copy says that the image is lower than it is: a baseline JPEG is coded row by row, and the decoder stops where the
header says that the image ends.

A call lets go of the GIL.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.user_error import UserError

LIBRARY = "libturbojpeg.so.0"
PIXEL_FORMAT_RGB = 0
ACCURATE_DCT = 4096
"""TJPF_RGB and TJFLAG_ACCURATEDCT of turbojpeg.h; chroma is upsampled smoothly unless told otherwise."""
WARNINGS = (
    b"Corrupt JPEG data",
    b"Inconsistent progression sequence",
    b"Invalid SOS parameters for sequential JPEG",
    b"Unknown Adobe color transform",
    b"Warning:",
)
"""How those of libjpeg's warnings begin after which all pixels are there, if wrong ones. "Premature end of JPEG file"
is not among them: the data broke off. tjGetErrorCode does not tell: an error after a warning is a warning to it."""
ROW_BELOW = 1
"""Smooth upsampling of chroma reads one row more than it writes."""


class JpegDecoder:
    """A decompressor and its memory, for one thread."""

    def __init__(self) -> None:
        self._library = require_library()
        self._handle = self._library.tjInitDecompress()
        self._pixels = np.empty(0, np.uint8)
        self._bytes = np.empty(0, np.uint8)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.tjDestroy(self._handle)

    def decode(self, data: NDArray[np.uint8], height: int, width: int, rows: int) -> NDArray[np.uint8]:
        """Decode the first rows of a JPEG.

        Args:
            data: the bytes, 1-D, contiguous; may be read-only.
            height, width: what `frame_size` says.
            rows: how many are wanted, 1 to `height`. At least as many are returned, and all of a JPEG that is not
                baseline.

        Returns:
            (rows or more, width, 3) uint8, in memory that the next call of this object overwrites.

        Raises:
            ValueError: libjpeg cannot decode it, or its data break off; the message is libjpeg's.
        """
        decoded = height
        if rows + ROW_BELOW < height and (position := _height_position(data)) > 0:
            decoded = rows + ROW_BELOW
            data = self._copy(data)
            data[position : position + 2] = decoded >> 8, decoded & 0xFF
        size = decoded * width * 3
        if self._pixels.size < size:
            self._pixels = np.empty(size, np.uint8)
        status = self._library.tjDecompress2(
            self._handle,
            data.ctypes.data,
            data.size,
            self._pixels.ctypes.data,
            width,
            0,
            decoded,
            PIXEL_FORMAT_RGB,
            ACCURATE_DCT,
        )
        if status != 0:
            self._check()
        return self._pixels[:size].reshape(decoded, width, 3)

    def _copy(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._bytes.size < data.size:
            self._bytes = np.empty(data.size, np.uint8)
        copy = self._bytes[: data.size]
        copy[:] = data
        return copy

    def _check(self) -> None:
        """Raise what went wrong; after a mere warning go on, as all loaders do."""
        reason: bytes = self._library.tjGetErrorStr2(self._handle)
        if not reason.startswith(WARNINGS):
            raise ValueError(reason.decode())


@njit(nogil=True, cache=True)
def frame_size(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Return (height, width) in a JPEG's frame header, (0, 0) where there is none before the first scan."""
    position = _frame(data)
    if position == 0:
        return 0, 0
    height = (np.int64(data[position + 5]) << 8) | data[position + 6]
    return height, (np.int64(data[position + 7]) << 8) | data[position + 8]


@njit(nogil=True, cache=True)
def _height_position(data: NDArray[np.uint8]) -> int:
    """Return where the height stands in a baseline JPEG (or another of one pass over the rows), else 0."""
    position = _frame(data)
    return position + 5 if position > 0 and data[position + 1] in (0xC0, 0xC1) else 0


@njit(nogil=True, cache=True)
def _frame(data: NDArray[np.uint8]) -> int:
    """Return where the frame header's marker stands, 0 if there is none before the first scan (T.81, annex B)."""
    n, position = len(data), 2
    if n < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return 0
    while position + 10 <= n and data[position] == 0xFF:
        code = data[position + 1]
        if code == 0xFF:  # a fill byte
            position += 1
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            return position
        elif code == 0xDA or code == 0xD9:
            return 0
        else:
            position += 2 + ((np.int64(data[position + 2]) << 8) | data[position + 3])
    return 0


@cache
def require_library() -> ctypes.CDLL:
    """Load TurboJPEG's library; a `UserError` where it is not there."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise UserError(
            f"{LIBRARY} cannot be loaded ({error}): install TurboJPEG (Debian and Ubuntu: libturbojpeg0-dev), which "
            "FFCV needs too"
        ) from error
    handle = pointer = ctypes.c_void_p
    integer = ctypes.c_int
    library.tjInitDecompress.restype = handle
    library.tjDestroy.argtypes = [handle]
    library.tjGetErrorStr2.argtypes = [handle]
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    library.tjDecompress2.argtypes = [handle, pointer, ctypes.c_ulong, pointer, *[integer] * 5]
    return library
