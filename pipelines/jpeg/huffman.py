"""The Huffman tables of a JPEG as look-ups (ITU-T T.81, annex C).

There are two for each table. `entries` steps over several codes at once: what is looked up are the next 12 bits, and
an entry says how many of them, and of those after them, whole codes with their extra bits take, and by how many
coefficients they go on; the values of the coefficients are nobody's affair. `codes` is for those who want the values:
one code an entry, and how many extra bits follow. Tables are kept from image to image, for most of a set share theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Entries = NDArray[np.uint16]
Int = int | np.int64

BITS = 12
"""Of a look-up in `entries`."""
CODE_BITS = 10
"""Of one in `codes`: a table is two kilobytes, so those of an image fit a core's nearest cache beside its data."""
SLOTS = 8
"""Tables at a time: 4 for DC, then 4 for AC."""
AC_SLOT = 4
END, NONE = 128, 255
"""Steps of an entry: the block's end is added to those before it; no code."""
CODE_END = 63
"""Steps of a code that ends its block."""


class HuffmanTables(NamedTuple):
    """The tables of one thread. An entry of a look-up is 64 x steps + bits; steps are coefficients to go on by."""

    definitions: NDArray[np.uint8]
    """(8, 272): of each slot, 16 numbers of codes by length, then their symbols, as in the file."""
    limits: NDArray[np.int64]
    """(8, 17): the first 16 bits that are beyond the codes of each length."""
    firsts: NDArray[np.int64]
    """(8, 17): what to add to a code of each length to get the place of its symbol."""
    entries: NDArray[np.uint16]
    """(8 * 4096,): one code an entry for DC, as many as fit for AC."""
    codes: NDArray[np.uint16]
    """(8 * 1024,): 1024 x steps + 64 x extra bits + all bits of one code; 0 where it is longer or there is none."""
    defined: NDArray[np.uint8]
    """(8,): whether this image defines a slot."""


def new_tables() -> HuffmanTables:
    """Return room for the tables of one thread."""
    return HuffmanTables(
        np.zeros((SLOTS, 272), np.uint8),
        np.zeros((SLOTS, 17), np.int64),
        np.zeros((SLOTS, 17), np.int64),
        np.zeros(SLOTS << BITS, np.uint16),
        np.zeros(SLOTS << CODE_BITS, np.uint16),
        np.zeros(SLOTS, np.uint8),
    )


@njit(nogil=True, cache=True)
def define_tables(tables: HuffmanTables, data: Bytes, position: Int, end: int) -> bool:
    """Take the tables of a DHT segment whose content is data[position:end]; False if it breaks off.

    A table of which no decoder can make codes (T.81, annex C) stays undefined.
    """
    while position + 17 <= end:
        kind, name = data[position] >> 4, data[position] & 15
        count: Int = 0
        for i in range(16):
            count += np.int64(data[position + 1 + i])
        if kind > 1 or name > 3 or count > 256 or position + 17 + count > end:
            return False
        slot = np.int64(AC_SLOT * kind + name)
        known = tables.definitions[slot]
        same = tables.limits[slot, 0] == 1
        for i in range(16 + count):
            same = same and known[i] == data[position + 1 + i]
        if not same:
            known[: 16 + count] = data[position + 1 : position + 17 + count]
            tables.limits[slot, 0] = _make_table(tables, slot)
        tables.defined[slot] = tables.limits[slot, 0]
        position = position + 17 + np.int64(count)
    return position == end


@njit(nogil=True, cache=True)
def _make_table(tables: HuffmanTables, slot: Int) -> int:
    """Make codes and look-up of a slot from its definition; 0 where there can be no such codes."""
    counts, symbols = tables.definitions[slot, :16], tables.definitions[slot, 16:]
    entries = tables.entries[slot << BITS : (slot + 1) << BITS]
    single = np.empty_like(entries) if slot >= AC_SLOT else entries
    single[:] = NONE << 6
    codes = tables.codes[slot << CODE_BITS : (slot + 1) << CODE_BITS]
    codes[:] = 0
    code = place = 0
    for length in range(1, 17):
        tables.firsts[slot, length] = place - code
        for _ in range(counts[length - 1]):
            symbol = np.int64(symbols[place])
            if slot < AC_SLOT and symbol > 15:
                return 0
            if length <= BITS:
                start = code << (BITS - length)
                single[start : start + (1 << (BITS - length))] = _entry(symbol, length, slot >= AC_SLOT)
            if length <= CODE_BITS:
                start = code << (CODE_BITS - length)
                codes[start : start + (1 << (CODE_BITS - length))] = code_entry(
                    symbol, length, slot >= AC_SLOT
                )
            code += 1
            place += 1
        if counts[length - 1] > 0 and code >= 1 << length:  # all ones is no code
            return 0
        tables.limits[slot, length] = code << (16 - length)
        code <<= 1
    if slot >= AC_SLOT:
        _merge(single, entries)
    return 1


@njit(nogil=True, cache=True)
def _entry(symbol: Int, length: int, ac: bool | np.bool) -> Int:
    """Return the look-up entry of a symbol whose code has `length` bits."""
    run, extra = symbol >> 4, symbol & 15
    steps: Int = 1
    if ac and symbol == 0:
        steps = END
    elif ac:
        steps = NONE if extra == 0 and run < 15 else run + 1
    return steps << 6 | (length + extra)


@njit(nogil=True, cache=True)
def code_entry(symbol: Int, length: Int, ac: bool | np.bool) -> Int:
    """Return the entry in `codes` of a symbol whose code has `length` bits; 0 for an AC symbol that T.81 has not."""
    run, extra = (symbol >> 4, symbol & 15) if ac else (0, symbol)
    if ac and extra == 0 and 0 < run < 15:
        return 0
    steps = CODE_END if ac and symbol == 0 else run + 1
    return steps << 10 | extra << 6 | (length + extra)


@njit(nogil=True, cache=True)
def _merge(single: Entries, merged: Entries) -> None:
    """Let each entry step over all the codes that lie in its 12 bits."""
    mask = (1 << BITS) - 1
    for bits in range(1 << BITS):
        entry = np.int64(single[bits])
        length: Int = entry & 63
        steps: Int = entry >> 6
        while steps < END and length < BITS:
            following = np.int64(single[(bits << length) & mask])
            more = following >> 6
            if more == NONE or length + (following & 63) > BITS or steps + (more & 127) > 63:
                break
            length += following & 63
            steps += more
        merged[bits] = steps << 6 | length


@njit(nogil=True, cache=True)
def long_code(bits: np.uint64, tables: HuffmanTables, slot: np.uint64) -> np.uint64:
    """Return the entry of the one code at the top of `bits`, whatever its length; 0 if there is none."""
    symbol, length = find_symbol(bits, tables, slot)
    if length == 0:
        return np.uint64(0)
    entry = _entry(symbol, length, slot >= np.uint64(AC_SLOT))
    return np.uint64(0 if entry >> 6 == NONE else entry)


@njit(nogil=True, cache=True)
def find_symbol(bits: np.uint64, tables: HuffmanTables, slot: np.uint64) -> tuple[Int, int]:
    """Return the symbol of the code at the top of `bits`, and the code's length; 0 for the length if there is none."""
    peek = np.int64(bits >> np.uint64(48))
    for length in range(1, 17):
        if peek < tables.limits[slot, length]:
            place = (peek >> (16 - length)) + tables.firsts[slot, length]
            return np.int64(tables.definitions[slot, 16 + place]), length
    return np.int64(0), 0
