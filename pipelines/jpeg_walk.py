"""The marker walk of `jpeg_markers` for the common case, compiled and without the GIL.

A set for training is nearly all baseline JPEGs that go in as they are, and what stands between the disk and the
file is then the walk. This one knows only how to say yes: `universal_size` returns the size of a JPEG that can be
copied and None for everything else, which `read_markers` then looks at and, if it is damaged, explains.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def universal_size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a whole JPEG for which `JpegInfo.universal` holds and whose scan is not short.

    None where it does not hold, or where only `read_markers` can tell (EXIF, Adobe segments, odd structure).
    """
    height, width = _walk(np.frombuffer(data, np.uint8))
    return (height, width) if height > 0 else None


@njit(nogil=True, cache=True)
def _walk(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Walk start marker, segments, one scan, end marker; (0, 0) where anything is out of the ordinary."""
    no = (0, 0)
    n = len(data)
    height = width = blocks = mcus = restart_interval = 0
    jfif = False
    position = 2
    while position + 4 <= n:
        if data[position] != 0xFF:
            return no
        code = data[position + 1]
        if code == 0xFF:
            position += 1
            continue
        if code < 0xC0 or 0xD0 <= code <= 0xD9:  # stand-alone markers, or the end before a scan
            return no
        length = (np.int64(data[position + 2]) << 8) | data[position + 3]
        segment, end = position + 4, position + 2 + length
        if length < 2 or end > n:
            return no
        if code == 0xC0:
            if height > 0 or length != 17 or data[segment] != 8 or data[segment + 5] != 3:
                return no
            height = (np.int64(data[segment + 1]) << 8) | data[segment + 2]
            width = (np.int64(data[segment + 3]) << 8) | data[segment + 4]
            factors = data[segment + 7]
            usual = factors in (0x11, 0x21, 0x12, 0x22, 0x41)
            if not usual or data[segment + 10] != 0x11 or data[segment + 13] != 0x11:
                return no
            named = data[segment + 6] == 1 and data[segment + 9] == 2 and data[segment + 12] == 3
            if not (jfif or named) or height == 0 or width == 0:
                return no
            h, v = np.int64(factors >> 4), np.int64(factors & 15)
            mcus = -(-width // (8 * h)) * -(-height // (8 * v))
            blocks = mcus * (h * v + 2)
        elif code == 0xDD:
            if length != 4:
                return no
            restart_interval = (np.int64(data[segment]) << 8) | data[segment + 1]
        elif code == 0xDA:
            if height == 0 or length != 12 or data[segment] != 3:
                return no
            return (height, width) if _scan_is_whole(data, end, blocks, mcus, restart_interval) else no
        elif (
            0xC1 <= code <= 0xCF and code != 0xC4
        ) or code == 0xEE:  # another kind of frame, or arithmetic coding
            return no
        elif code == 0xE0 and length >= 7:
            jfif = jfif or (
                data[segment] == 0x4A
                and data[segment + 1] == 0x46
                and data[segment + 2] == 0x49
                and data[segment + 3] == 0x46
                and data[segment + 4] == 0
            )
        elif code == 0xE1 and length >= 6 and data[segment] == 0x45 and data[segment + 1] == 0x78:
            return no  # EXIF, which may turn the image
        position = end
    return no


@njit(nogil=True, cache=True)
def _scan_is_whole(
    data: NDArray[np.uint8], position: int, blocks: int, mcus: int, restart_interval: int
) -> bool:
    """Whether the scan from `position` runs to an end marker, with its restarts and enough data."""
    start, restarts, n = position, 0, len(data)
    while position + 1 < n:
        if data[position] != 0xFF:
            position += 1
            continue
        code = data[position + 1]
        if code == 0:
            position += 2
        elif 0xD0 <= code <= 0xD7:
            if code - 0xD0 != restarts % 8:
                return False
            restarts += 1
            position += 2
        elif code == 0xFF:
            position += 1
        else:
            wanted = (mcus - 1) // restart_interval if restart_interval > 0 else 0
            # A block of 8 x 8 takes two codes, and no code is shorter than a bit.
            return code == 0xD9 and restarts == wanted and (position - start) * 8 >= 2 * blocks
    return False
