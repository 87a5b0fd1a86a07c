"""The segments of a baseline JPEG up to its scan, read in one compiled call (ITU-T T.81, annex B).

This reader knows the common kind only: one baseline frame of 8 bits, three components, the chroma ones of factors
1 x 1, one scan of all three. Of anything else it says that it is none of these; `jpeg_markers` reads every kind.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pipelines.jpeg.huffman import AC_SLOT, Bytes, HuffmanTables, Int, define_tables

_JFIF = np.frombuffer(b"JFIF\0", np.uint8)
_EXIF = np.frombuffer(b"Exif", np.uint8)
_ADOBE = np.frombuffer(b"Adobe", np.uint8)
NO_ADOBE = -1

Flag = bool | np.bool
Three = tuple[Int, Int, Int]


class Header(NamedTuple):
    """What stands before the data of a scan; all zeros where the JPEG is not of the common kind."""

    height: Int
    width: Int
    across: Int
    """Luma's horizontal sampling factor."""
    down: Int
    """Luma's vertical sampling factor."""
    data: Int
    """Where the scan's coded data start."""
    interval: Int
    """MCUs between restart markers; 0 for none."""
    slots: Three
    """Of each component, 16 x its DC slot + its AC slot."""
    quantization: Three
    """Of each component, where the 64 bytes of its table stand, in zigzag order; 0 for no such table of 8 bits."""
    named: Flag
    """Whether the components have the identifiers 1, 2, 3."""
    jfif: Flag
    adobe: Int
    """Adobe's colour transform, 1 for YCbCr; `NO_ADOBE` without that segment."""
    exif: Flag


@njit(nogil=True, cache=True)
def read_header(data: Bytes, tables: HuffmanTables) -> Header:
    """Read the header and define its Huffman tables."""
    tables.defined[:] = 0
    none = _nothing()
    frame: Int = 0
    interval: Int = 0
    adobe: Int = NO_ADOBE
    jfif: Flag = False
    exif: Flag = False
    quantization = (0, 0, 0, 0)
    position: Int = 2
    while position + 4 <= len(data):
        code = data[position + 1]
        if data[position] == 0xFF and code == 0xFF:  # a fill byte
            position += 1
            continue
        length = (np.int64(data[position + 2]) << 8) | data[position + 3]
        segment, end = position + 4, position + 2 + length
        if data[position] != 0xFF or _extraordinary(code) or length < 2 or end > len(data):
            return none
        if code == 0xC0:
            if frame > 0 or not _usual_frame(data, segment, end):
                return none
            frame = segment
        elif code == 0xC4:
            if not define_tables(tables, data, segment, end):
                return none
        elif code == 0xDB:
            quantization = _find_quantization(data, segment, end, quantization)
        elif code == 0xDD and length == 4:
            interval = (np.int64(data[segment]) << 8) | data[segment + 1]
        elif code == 0xDA:
            usual = frame > 0 and length == 12 and data[segment] == 3
            return _header(data, frame, segment, interval, quantization, jfif, adobe, exif) if usual else none
        elif code == 0xE0:
            jfif = jfif or _starts_with(data, segment, end, _JFIF)
        elif code == 0xE1:
            exif = exif or _starts_with(data, segment, end, _EXIF)
        elif code == 0xEE and length >= 14 and _starts_with(data, segment, end, _ADOBE):
            adobe = np.int64(data[segment + 11])
        position = end
    return none


@njit(nogil=True, cache=True)
def _header(data, frame, scan, interval, quantization, jfif, adobe, exif):  # type: ignore[no-untyped-def]
    """Put together what the segments say; a scan with other components than the frame is none of ours."""
    slots: Three = (0, 0, 0)
    tables: Three = (0, 0, 0)
    usable = named = True
    for component in range(3):
        identifier, selector = data[frame + 6 + 3 * component], data[frame + 8 + 3 * component]
        dc, ac = data[scan + 2 + 2 * component] >> 4, data[scan + 2 + 2 * component] & 15
        usable = usable and data[scan + 1 + 2 * component] == identifier
        usable = usable and dc < AC_SLOT and ac < AC_SLOT and selector < 4
        named = named and identifier == component + 1
        slots = (slots[1], slots[2], np.int64(dc) << 4 | (AC_SLOT + np.int64(ac)))
        tables = (tables[1], tables[2], quantization[selector & 3])
    if not usable:
        return _nothing()
    height, width = _number(data, frame + 1), _number(data, frame + 3)
    across, down = np.int64(data[frame + 7] >> 4), np.int64(data[frame + 7] & 15)
    return Header(
        height, width, across, down, scan + 10, interval, slots, tables, named, jfif, np.int64(adobe), exif
    )


@njit(nogil=True, cache=True)
def _nothing() -> Header:
    return Header(0, 0, 0, 0, 0, 0, (0, 0, 0), (0, 0, 0), False, False, NO_ADOBE, False)


@njit(nogil=True, cache=True)
def _number(data: Bytes, position: Int) -> Int:
    return np.int64(data[position]) << 8 | np.int64(data[position + 1])


@njit(nogil=True, cache=True)
def _starts_with(data: Bytes, position: Int, end: Int, wanted: Bytes) -> bool | np.bool:
    same = position + len(wanted) <= end
    for i in range(len(wanted)):
        same = same and data[position + i] == wanted[i]
    return same


@njit(nogil=True, cache=True)
def _extraordinary(code: int) -> bool:
    """Whether a marker is none of the usual ones: it stands alone or is another kind of frame."""
    return code < 0xC0 or 0xD0 <= code <= 0xD9 or (0xC1 <= code <= 0xCF and code != 0xC4)


@njit(nogil=True, cache=True)
def _usual_frame(data: Bytes, segment: Int, end: Int) -> bool | np.bool:
    if end - segment != 15 or data[segment] != 8 or data[segment + 5] != 3:
        return False
    sized = _number(data, segment + 1) > 0 and _number(data, segment + 3) > 0
    usual = data[segment + 7] in (0x11, 0x21, 0x12, 0x22, 0x41)
    return sized and usual and data[segment + 10] == 0x11 and data[segment + 13] == 0x11


@njit(nogil=True, cache=True)
def _find_quantization(data, position, end, known):  # type: ignore[no-untyped-def]
    """Add the places of a DQT segment's tables to those known; one of 16 bits makes its place 0."""
    while position < end:
        size = 128 if data[position] >> 4 > 0 else 64
        name = data[position] & 15
        place = position + 1 if size == 64 and position + 1 + size <= end else 0
        known = (
            place if name == 0 else known[0],
            place if name == 1 else known[1],
            place if name == 2 else known[2],
            place if name == 3 else known[3],
        )
        position += 1 + size
    return known
