"""The marker walk of `jpeg_markers` and the walk of `jpeg_entropy` for the common case, in one compiled call.

A set for training is nearly all baseline JPEGs that go in as they are, and what stands between the disk and the
file is then the walk. This one knows only how to say yes: `universal_size` returns the size of a JPEG that can be
copied and None for everything else, which `jpeg_scans` then looks at and, if it is damaged, explains.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import njit

from pipelines.jpeg_entropy import WHOLE, walk_scan
from pipelines.jpeg_huffman import AC_SLOT, Bytes, HuffmanTables, define_tables, new_tables

_thread = threading.local()
_JFIF = np.frombuffer(b"JFIF\0", np.uint8)


def universal_size(data: bytes, *, codes: bool = True) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG for which `JpegInfo.universal` holds and whose scan is whole.

    None where it does not hold, or where only `jpeg_scans` can tell (EXIF, Adobe segments, odd structure). Without
    `codes` a scan counts as whole if the end marker follows it, which is faster and does not notice data that end
    early.
    """
    height, width = _walk(np.frombuffer(data, np.uint8), thread_tables(), codes)
    return (height, width) if height > 0 else None


def thread_tables() -> HuffmanTables:
    """Return the tables of the calling thread; the images of a set mostly share theirs, so they are kept."""
    try:
        tables: HuffmanTables = _thread.tables
    except AttributeError:
        tables = _thread.tables = new_tables()
    return tables


@njit(nogil=True, cache=True)
def _walk(data: Bytes, tables: HuffmanTables, codes: bool) -> tuple[int, int]:
    """Walk start marker, segments, one scan, end marker; (0, 0) where anything is out of the ordinary."""
    no = (0, 0)
    height = width = interval = frame = 0
    jfif = False
    tables.defined[:] = 0
    position = 2
    while position + 4 <= len(data):
        code = data[position + 1]
        if data[position] == 0xFF and code == 0xFF:  # a fill byte
            position += 1
            continue
        if data[position] != 0xFF or _extraordinary(code):
            return no
        length = (np.int64(data[position + 2]) << 8) | data[position + 3]
        segment, end = position + 4, position + 2 + length
        if length < 2 or end > len(data):
            return no
        if code == 0xC0:
            if height > 0:
                return no
            height, width = _read_frame(data, segment, end, jfif)
            frame = segment
            if height == 0:
                return no
        elif code == 0xC4:
            if not define_tables(tables, data, segment, end):
                return no
        elif code == 0xDD:
            if length != 4:
                return no
            interval = (np.int64(data[segment]) << 8) | data[segment + 1]
        elif code == 0xDA:
            if height == 0 or length != 12 or data[segment] != 3:
                return no
            if not codes:
                return (height, width) if _end_marker_follows(data, end) else no
            whole = _scan_is_whole(data, frame, segment, interval, tables)
            return (height, width) if whole else no
        elif code == 0xE0:
            jfif = jfif or (length >= 7 and _starts_with(data, segment, _JFIF))
        elif code == 0xE1 and length >= 6 and data[segment] == 0x45 and data[segment + 1] == 0x78:
            return no  # EXIF, which may turn the image
        position = end
    return no


@njit(nogil=True, cache=True)
def _starts_with(data: Bytes, position: int, wanted: Bytes) -> bool:
    same = True
    for i in range(len(wanted)):
        same = same and data[position + i] == wanted[i]
    return same


@njit(nogil=True, cache=True)
def _extraordinary(code: int) -> bool:
    """Whether a marker is none of the usual ones: it stands alone, is another kind of frame, or is Adobe's."""
    alone = code < 0xC0 or 0xD0 <= code <= 0xD9
    return alone or (0xC1 <= code <= 0xCF and code != 0xC4) or code == 0xEE


@njit(nogil=True, cache=True)
def _read_frame(data: Bytes, segment: int, end: int, jfif: bool) -> tuple[int, int]:
    """Return height and width of an ordinary YCbCr frame, zeros for another."""
    if end - segment != 15 or data[segment] != 8 or data[segment + 5] != 3:
        return 0, 0
    height = (np.int64(data[segment + 1]) << 8) | data[segment + 2]
    width = (np.int64(data[segment + 3]) << 8) | data[segment + 4]
    usual = data[segment + 7] in (0x11, 0x21, 0x12, 0x22, 0x41)
    if not usual or data[segment + 10] != 0x11 or data[segment + 13] != 0x11 or height == 0 or width == 0:
        return 0, 0
    named = data[segment + 6] == 1 and data[segment + 9] == 2 and data[segment + 12] == 3
    return (height, width) if jfif or named else (0, 0)


@njit(nogil=True, cache=True)
def _end_marker_follows(data: Bytes, position: int) -> bool:
    """Whether the first marker after the coded data at `position` is the end marker; restarts belong to the data."""
    while position + 1 < len(data):
        code = data[position + 1]
        if data[position] != 0xFF or code == 0xFF:
            position += 1
        elif code == 0 or 0xD0 <= code <= 0xD7:
            position += 2
        else:
            return bool(code == 0xD9)
    return False


@njit(nogil=True, cache=True)
def _scan_is_whole(
    data: Bytes, frame: int, segment: int, interval: int, tables: HuffmanTables
) -> bool | np.bool:
    """Whether the scan whose SOS segment is at `segment` holds all blocks of the frame, then the end marker."""
    height = np.int64(data[frame + 1]) << 8 | np.int64(data[frame + 2])
    width = np.int64(data[frame + 3]) << 8 | np.int64(data[frame + 4])
    across, down = np.int64(data[frame + 7] >> 4), np.int64(data[frame + 7] & 15)
    slots = np.empty((across * down + 2, 2), np.uint8)
    for block in range(len(slots)):
        component = block + 1 - across * down if block >= across * down else 0
        place = segment + 1 + 2 * component
        dc, ac = data[place + 1] >> 4, data[place + 1] & 15
        if data[place] != data[frame + 6 + 3 * component] or dc >= AC_SLOT or ac >= AC_SLOT:
            return False
        slots[block, 0], slots[block, 1] = dc, AC_SLOT + ac
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    status, marker = walk_scan(data, segment + 10, units, interval, slots, tables)
    return status == WHOLE and marker + 1 < len(data) and data[marker + 1] == 0xD9
