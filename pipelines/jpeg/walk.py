"""The marker walk of `jpeg_markers` and the walk of `jpeg_entropy` for the common case, in one compiled call.

A set for training is nearly all baseline JPEGs that go in as they are, and what stands between the disk and the
file is then the walk. This one knows only how to say yes: `universal_size` returns the size of a JPEG that can be
copied and None for everything else, which `jpeg_scans` then looks at and, if it is damaged, explains.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import njit

from pipelines.jpeg.entropy import WHOLE, walk_scan
from pipelines.jpeg.header import NO_ADOBE, Header, read_header
from pipelines.jpeg.huffman import Bytes, HuffmanTables, Int, new_tables

_thread = threading.local()


def universal_size(data: bytes, *, codes: bool = True) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG for which `JpegInfo.universal` holds and whose scan is whole.

    None where it does not hold, or where only `jpeg_scans` can tell (EXIF, Adobe segments, odd structure). Without
    `codes` a scan counts as whole if the end marker follows it, which is faster and does not notice data that end
    early.
    """
    height, width = _walk(np.frombuffer(data, np.uint8), thread_tables(), codes)
    return (int(height), int(width)) if height > 0 else None


def thread_tables() -> HuffmanTables:
    """Return the tables of the calling thread; the images of a set mostly share theirs, so they are kept."""
    try:
        tables: HuffmanTables = _thread.tables
    except AttributeError:
        tables = _thread.tables = new_tables()
    return tables


@njit(nogil=True, cache=True)
def _walk(data: Bytes, tables: HuffmanTables, codes: bool) -> tuple[Int, Int]:
    """Walk start marker, segments, one scan, end marker; (0, 0) where anything is out of the ordinary."""
    header = read_header(data, tables)
    # EXIF may turn the image, Adobe's segment may make it RGB
    ordinary = (header.jfif or header.named) and not header.exif and header.adobe == NO_ADOBE
    if header.height == 0 or not ordinary:
        return 0, 0
    whole = _scan_is_whole(data, header, tables) if codes else _end_marker_follows(data, header.data)
    return (header.height, header.width) if whole else (0, 0)


@njit(nogil=True, cache=True)
def _end_marker_follows(data: Bytes, position: Int) -> bool:
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
def _scan_is_whole(data: Bytes, header: Header, tables: HuffmanTables) -> bool | np.bool:
    """Whether the scan holds all blocks of the frame, and then comes the end marker."""
    luma = header.across * header.down
    slots = np.empty((luma + 2, 2), np.uint8)
    for block in range(len(slots)):
        slot = header.slots[max(block + 1 - luma, 0)]
        slots[block, 0], slots[block, 1] = slot >> 4, slot & 15
    units = -(-header.width // (8 * header.across)) * -(-header.height // (8 * header.down))
    status, marker = walk_scan(data, header.data, units, header.interval, slots, tables)
    return status == WHOLE and marker + 1 < len(data) and data[marker + 1] == 0xD9
