"""The coefficients of a baseline JPEG's blocks, decoded from a row of MCUs (ITU-T T.81, annex F.2.2).

libjpeg spends three quarters of its time here, for a photograph of ImageNet's size has 150,000 coefficients, each a
look-up that has to wait for the one before it. What makes this faster:

- `copy_coded_data` takes out the zeros after bytes 0xFF once, eight bytes at a time, and ends the data with zeros. So
  bits come eight bytes at a time without a question, two codes at each refill, and only the end is checked.
- A code and its extra bits are one look-up. Nothing is dequantised here: that is done many blocks at a time.
- Of blocks that no view shows, only the DC value is decoded, which those after it are told from; their other codes are
  stepped over, several at a look-up.

Reading a code is written out wherever it is done: as a function that is given the tables it was not inlined, and an
image took seven times as long.

Coefficients of `LANES` blocks lie side by side, for the transform computes as many at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.jpeg.entropy import next_word
from pipelines.jpeg.huffman import (
    AC_SLOT,
    BITS,
    CODE_BITS,
    CODE_END,
    END,
    Bytes,
    HuffmanTables,
    Int,
    code_entry,
    find_symbol,
    long_code,
)

LANES = 16
"""Blocks of a group: coefficient k of block b of a group is at LANES x k + b."""
GROUP = 64 * LANES
SPARE = 256
"""Zero bytes after the coded data: more than a block can take (64 codes of 26 bits), and a word that is read ahead."""

State = tuple[np.uint64, np.uint64, np.uint64]
"""Where the next byte is; the next bits, from the top; how many of them there are."""

_0, _1, _3, _8 = np.uint64(0), np.uint64(1), np.uint64(3), np.uint64(8)
_TOP, _CODE_TOP = np.uint64(64 - BITS), np.uint64(64 - CODE_BITS)
_BITS, _CODE_BITS = np.uint64(BITS), np.uint64(CODE_BITS)
_LENGTH, _STEPS, _EXTRA, _SIX, _TEN = np.uint64(63), np.uint64(6), np.uint64(15), np.uint64(6), np.uint64(10)
_BLOCK, _LAST, _ENDED, _CODE_END = np.uint64(64), np.uint64(63), np.uint64(END), np.uint64(CODE_END)
_FULL, _ALMOST = np.uint64(56), np.uint64(63)
_LOW, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)

_diagonals = sorted(np.ndindex(8, 8), key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]))
NATURAL = np.array([8 * row + column for row, column in _diagonals] + 64 * [63], np.uint64)
"""(128,): where the k-th coefficient in zigzag order stands among the rows of its block; beyond the last, the last."""
_PLACES = NATURAL * np.uint64(LANES)


@njit(nogil=True, cache=True)
def copy_coded_data(data: Bytes, start: Int, out: Bytes) -> tuple[Int, Int]:
    """Copy a scan's data without stuffed zeros; return how many bytes they are, and where the marker after them is.

    Args:
        data: (n,) the file.
        start: of the coded data.
        out: (n + `SPARE`,) or more; zeros follow the data.
    """
    size = np.uint64(len(data))
    i, o = np.uint64(start), _0
    while i + np.uint64(9) <= size:
        word = next_word(data, i)
        _store(out, o, word)
        if (~word - _LOW) & word & _HIGH == _0:  # no byte of it is 0xFF
            i, o = i + _8, o + _8
            continue
        while data[i] != 0xFF:
            i, o = i + _1, o + _1
        if data[i + _1] != 0:
            break
        i, o = i + np.uint64(2), o + _1
    while i + _1 < size and (data[i] != 0xFF or data[i + _1] == 0):
        out[o] = data[i]
        i, o = i + (np.uint64(2) if data[i] == 0xFF else _1), o + _1
    out[o : o + np.uint64(SPARE)] = 0
    return np.int64(o), np.int64(i)


@njit(nogil=True, cache=True)
def skip_blocks(
    coded: Bytes,
    length: Int,
    state: State,
    blocks: Int,
    slots: NDArray[np.uint64],
    sums: NDArray[np.int64],
    tables: HuffmanTables,
) -> tuple[bool, State]:
    """Step over whole MCUs, keeping the sums of their DC differences; False where a code is none.

    Args:
        coded: as `copy_coded_data` leaves it.
        length: bytes of it before the zeros.
        state: of the bits before the first block.
        blocks: how many; a multiple of an MCU's.
        slots: (b, 3) of each block of an MCU: component, DC slot, AC slot.
        sums: (3,) DC value of each component's last block.
        tables: as the file has defined them.
    """
    position, bits, count = state
    entries, codes = tables.entries, tables.codes
    end = np.uint64(length) + _8
    block = 0
    for _ in range(blocks):
        if position > end:
            return False, state
        ac = slots[block, 2] << _BITS
        bits |= next_word(coded, position) >> count
        position += (_ALMOST - count) >> _3
        count |= _FULL
        entry = np.uint64(codes[(slots[block, 1] << _CODE_BITS) + (bits >> _CODE_TOP)])
        if entry == _0:
            entry = _long_entry(bits, tables, slots[block, 1])
        if entry == _0:
            return False, state
        taken, extra = entry & _LENGTH, (entry >> _SIX) & _EXTRA
        sums[slots[block, 0]] += _value(bits << (taken - extra), extra)
        bits, count = bits << taken, count - taken
        k = _1
        while k < _BLOCK:
            bits |= next_word(coded, position) >> count
            position += (_ALMOST - count) >> _3
            count |= _FULL
            entry = np.uint64(entries[ac + (bits >> _TOP)])
            taken = entry & _LENGTH
            second = np.uint64(entries[ac + ((bits << taken) >> _TOP)])
            middle = k + (entry >> _STEPS)
            after = middle + (second >> _STEPS)
            if after >= _BLOCK and middle >= _BLOCK:
                after, second = middle, _0
            if after > _BLOCK and not _ENDED < after < _ENDED + _BLOCK:  # one code only
                second, entry = _0, long_code(bits, tables, slots[block, 2])
                taken, after = entry & _LENGTH, k + (entry >> _STEPS)
                if entry == _0 or (after > _BLOCK and not _ENDED < after < _ENDED + _BLOCK):
                    return False, state
            taken += second & _LENGTH
            bits, count, k = bits << taken, count - taken, after
        block = block + 1 if block + 1 < len(slots) else 0
    return True, (position, bits, count)


@njit(nogil=True, cache=True)
def decode_blocks(
    coded: Bytes,
    length: Int,
    state: State,
    places: NDArray[np.uint64],
    slots: NDArray[np.uint64],
    sums: NDArray[np.int64],
    tables: HuffmanTables,
    coefficients: NDArray[np.int16],
) -> tuple[bool, State]:
    """Decode whole MCUs; False where a code is none. Arguments as for `skip_blocks`, and:

    Args:
        places: (n,) where each block's DC coefficient goes.
        coefficients: (m,) int16, zeros; those after it are at distances of `LANES`, in the order of rows (`NATURAL`).
    """
    position, bits, count = state
    codes, places_of = tables.codes, _PLACES
    end = np.uint64(length) + _8
    block = 0
    for place in places:
        if position > end:
            return False, state
        ac = slots[block, 2] << _CODE_BITS
        bits |= next_word(coded, position) >> count
        position += (_ALMOST - count) >> _3
        count |= _FULL
        entry = np.uint64(codes[(slots[block, 1] << _CODE_BITS) + (bits >> _CODE_TOP)])
        if entry == _0:
            entry = _long_entry(bits, tables, slots[block, 1])
        if entry == _0:
            return False, state
        taken, extra = entry & _LENGTH, (entry >> _SIX) & _EXTRA
        sums[slots[block, 0]] += _value(bits << (taken - extra), extra)
        coefficients[place] = sums[slots[block, 0]]
        bits, count = bits << taken, count - taken
        k = _0
        while k < _LAST:
            bits |= next_word(coded, position) >> count
            position += (_ALMOST - count) >> _3
            count |= _FULL
            entry = np.uint64(codes[ac + (bits >> _CODE_TOP)])
            if entry == _0:
                entry = _long_entry(bits, tables, slots[block, 2])
                if entry == _0:
                    return False, state
            taken, extra = entry & _LENGTH, (entry >> _SIX) & _EXTRA
            k += entry >> _TEN
            # what ends a block has the value 0, and the last coefficient is 0 then
            coefficients[place + places_of[k]] = _value(bits << (taken - extra), extra)
            bits, count = bits << taken, count - taken
            if k >= _LAST:
                break
            entry = np.uint64(codes[ac + (bits >> _CODE_TOP)])  # the refill holds two codes
            if entry == _0:
                continue
            taken, extra = entry & _LENGTH, (entry >> _SIX) & _EXTRA
            k += entry >> _TEN
            coefficients[place + places_of[k]] = _value(bits << (taken - extra), extra)
            bits, count = bits << taken, count - taken
        if k > _LAST and entry >> _TEN != _CODE_END:
            return False, state
        block = block + 1 if block + 1 < len(slots) else 0
    return True, (position, bits, count)


@njit(nogil=True, cache=True)
def all_there(state: State, length: Int) -> bool | np.bool:
    """Whether the bits up to here were those of the data, not of the zeros after them."""
    position, _, count = state
    return position - (count >> _3) <= np.uint64(length)


@njit(nogil=True, cache=True)
def _long_entry(bits: np.uint64, tables: HuffmanTables, slot: np.uint64) -> np.uint64:
    """Return the entry of a code that `codes` has no room for; 0 if there is none."""
    symbol, length = find_symbol(bits, tables, slot)
    return np.uint64(code_entry(symbol, length, slot >= np.uint64(AC_SLOT)) if length > 0 else 0)


@njit(nogil=True, cache=True)
def _value(bits: np.uint64, extra: np.uint64) -> np.int64:
    """Return the number that the first `extra` bits stand for: with a 0 in front it is negative (T.81, F.2.2.1)."""
    negative = np.uint64(np.int64(~bits) >> 63)
    magnitude = ((bits ^ negative) >> _1) >> (_ALMOST - extra)
    return np.int64(magnitude ^ negative) - np.int64(negative)


@njit(nogil=True, cache=True)
def _store(out: Bytes, position: np.uint64, word: np.uint64) -> None:
    """The reverse of `next_word`."""
    out[position] = np.uint8(word >> np.uint64(56))
    out[position + _1] = np.uint8(word >> np.uint64(48))
    out[position + np.uint64(2)] = np.uint8(word >> np.uint64(40))
    out[position + np.uint64(3)] = np.uint8(word >> np.uint64(32))
    out[position + np.uint64(4)] = np.uint8(word >> np.uint64(24))
    out[position + np.uint64(5)] = np.uint8(word >> np.uint64(16))
    out[position + np.uint64(6)] = np.uint8(word >> _8)
    out[position + np.uint64(7)] = np.uint8(word)
