"""Does the compressed data of a sequential JPEG hold the blocks that its frame needs? Asked without decoding it.

A JPEG that was cut and closed with an end marker has perfect markers, and libjpeg fills what is missing with gray.
Only the Huffman codes tell. So the scan is walked code by code (ITU-T T.81, annex F.2.2): every block must be
there, no coefficient beyond the 63rd, the restart markers in their turn, no more than padding left at the end.
Nothing is dequantised, transformed or kept, not even a coefficient's value.

What makes it fast: one look-up of 12 bits steps over as many whole codes and their extra bits as those hold
(huffman.py); bits come eight bytes at a time unless one of them is 0xFF; two look-ups share one refill and one
branch.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.jpeg.huffman import BITS, END, Bytes, HuffmanTables, Int, long_code

WHOLE, SPARE, SHORT, INVALID, RESTART, UNKNOWN = range(6)
"""What a scan is: as it should be; more data than blocks; ends early; a code that is none, or too many coefficients;
a restart marker missing or out of turn; a table that the file does not define."""

Reader = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
"""Where the next byte is; the next bits, from the top; how many of them there are; how many of those are made up,
because the data have ended."""

_0, _1, _8 = np.uint64(0), np.uint64(1), np.uint64(8)
_TOP = np.uint64(64 - BITS)
_LENGTH, _STEPS = np.uint64(63), np.uint64(6)
_BITS, _BLOCK, _ENDED = np.uint64(BITS), np.uint64(64), np.uint64(END)
_FULL, _ALMOST = np.uint64(56), np.uint64(63)
_FF = np.uint64(0xFF)
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


@njit(nogil=True, cache=True)
def walk_scan(
    data: Bytes, position: Int, units: Int, interval: Int, slots: NDArray[np.uint8], tables: HuffmanTables
) -> tuple[int, Int]:
    """Walk the scan whose data start at `position`; return what it is and where the marker after it is.

    Args:
        data: (n,) the file.
        position: of the first byte after the SOS segment.
        units: the scan's MCUs (T.81, A.2).
        interval: MCUs between restart markers; 0 for none.
        slots: (b, 2) the DC and the AC table slot of each block of an MCU.
        tables: as the file has defined them.
    """
    for block in range(len(slots)):
        if tables.defined[slots[block, 0]] == 0 or tables.defined[slots[block, 1]] == 0:
            return UNKNOWN, position
    starts = slots.astype(np.uint64) << _BITS
    reader = (np.uint64(position), _0, _0, _0)
    restarts, worst = 0, WHOLE
    while True:
        left = min(units, interval) if interval > 0 else units
        status, reader = _walk_units(data, reader, left, starts, tables)
        if status != WHOLE:
            return status, np.int64(reader[0])
        status, place = end_of_interval(data, reader)
        worst, units = max(worst, status), units - left
        if units == 0:
            return worst, place
        following = data[place + 1] if place + 1 < len(data) else 0
        if following != 0xD0 + restarts % 8:
            return (RESTART if 0xD0 <= following <= 0xD7 else SHORT), place
        restarts += 1
        reader = (np.uint64(place + 2), _0, _0, _0)


@njit(nogil=True, cache=True)
def _walk_units(
    data: Bytes, reader: Reader, units: Int, starts: NDArray[np.uint64], tables: HuffmanTables
) -> tuple[int, Reader]:
    """Step over the blocks of MCUs: of each the DC code, then AC codes up to the block's end."""
    position, bits, count, made_up = reader
    last = np.uint64(max(len(data) - 8, 0))
    entries = tables.entries
    block = 0
    for _ in range(units * len(starts)):
        start, ac = starts[block, 0], starts[block, 1]
        block = block + 1 if block + 1 < len(starts) else 0
        k = _0
        while k < _BLOCK:
            word = next_word(data, position) if position < last else _ONES
            if (~word - _LOW) & word & _HIGH == _0:  # no byte of it is 0xFF
                bits |= word >> count
                position += (_ALMOST - count) >> np.uint64(3)
                count |= _FULL
            else:
                position, bits, count, made_up = refill(data, (position, bits, count, made_up))
            entry = np.uint64(entries[start + (bits >> _TOP)])
            length = entry & _LENGTH
            second = np.uint64(entries[ac + ((bits << length) >> _TOP)])
            steps = k + (entry >> _STEPS)
            both = steps + (second >> _STEPS)
            if both >= _BLOCK and steps >= _BLOCK:
                both, second = steps, _0
            if both > _BLOCK and not _ENDED < both < _ENDED + _BLOCK:
                # No entry, or it leads beyond the end: one code only.
                both, second = k, _0
                entry = long_code(bits, tables, start >> _BITS)
                length, both = entry & _LENGTH, k + (entry >> _STEPS)
                if entry == _0 or (both > _BLOCK and not _ENDED < both < _ENDED + _BLOCK):
                    return _stop(count, made_up), (position, bits, count, made_up)
            length += second & _LENGTH
            bits, count = (bits << length), count - length
            start, k = ac, both
        if count < made_up:
            return SHORT, (position, bits, count, made_up)
    return WHOLE, (position, bits, count, made_up)


@njit(nogil=True, cache=True)
def _stop(count: np.uint64, made_up: np.uint64) -> int:
    """Say why there is no code: some of the bits that it was sought in may be made up."""
    return SHORT if count < made_up + np.uint64(16) else INVALID


@njit(nogil=True, cache=True)
def next_word(data: Bytes, position: np.uint64) -> np.uint64:
    """Return the eight bytes from `position` on, the first one at the top; compiled, it is one instruction."""
    return (
        np.uint64(data[position]) << np.uint64(56)
        | np.uint64(data[position + _1]) << np.uint64(48)
        | np.uint64(data[position + np.uint64(2)]) << np.uint64(40)
        | np.uint64(data[position + np.uint64(3)]) << np.uint64(32)
        | np.uint64(data[position + np.uint64(4)]) << np.uint64(24)
        | np.uint64(data[position + np.uint64(5)]) << np.uint64(16)
        | np.uint64(data[position + np.uint64(6)]) << _8
        | np.uint64(data[position + np.uint64(7)])
    )


@njit(nogil=True, cache=True)
def refill(data: Bytes, reader: Reader) -> Reader:
    """Return a reader of the same bits that has 57 or more of them at hand; after the data they are zeros."""
    position, bits, count, made_up = reader
    size = np.uint64(len(data))
    while count <= _FULL:
        byte = _0
        if made_up == _0 and position < size and data[position] != 0xFF:
            byte = np.uint64(data[position])
            position += _1
        elif made_up == _0 and position + _1 < size and data[position + _1] == 0:
            byte = _FF
            position += np.uint64(2)
        else:
            made_up += _8
        bits |= byte << (_FULL - count)
        count += _8
    return position, bits, count, made_up


@njit(nogil=True, cache=True)
def end_of_interval(data: Bytes, reader: Reader) -> tuple[int, Int]:
    """Return what is left before the next marker, `WHOLE` for less than a byte, and where its second last 0xFF is."""
    position, _, count, made_up = reader
    place, size = np.int64(position), len(data)
    spare: bool | np.bool = count - made_up >= _8
    while place + 1 < size and not (data[place] == 0xFF and data[place + 1] != 0):
        place += 1
        spare = True
    while place + 1 < size and data[place + 1] == 0xFF:  # fill bytes
        place += 1
    return (SPARE if spare else WHOLE), place
