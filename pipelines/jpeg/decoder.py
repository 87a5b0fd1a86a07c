"""A box of a baseline JPEG's pixels, and little more work than that box needs; libjpeg's pixels to the bit.

libjpeg decodes whole images, or at best whole rows. But of a source image a step shows two crops, and what lies outside
of both need not be decoded: rows below are not looked at, and of blocks above and beside only the DC value is
(coefficients.py). What is left is transformed many blocks at a time (transform.py) and converted to RGB
(colours.py).

It knows the common kind: baseline, YCbCr, chroma not halved, halved across, or halved both ways, one scan, no restart
markers, every byte in its place. All else, damaged data above all, is left to TurboJPEG, and so to libjpeg's judgment.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.jpeg.coefficients import (
    GROUP,
    LANES,
    NATURAL,
    SPARE,
    all_there,
    copy_coded_data,
    decode_blocks,
    skip_blocks,
)
from pipelines.jpeg.colours import Part, fill_pixels
from pipelines.jpeg.header import NO_ADOBE, Header, read_header
from pipelines.jpeg.huffman import Bytes, HuffmanTables, Int, new_tables
from pipelines.jpeg.transform import transform_groups

Box = tuple[int, int, int, int]
"""(y0, x0, y1, x1), half-open, in pixels of the image."""


class _Memory(NamedTuple):
    """What is used again for each image."""

    coded: Bytes
    coefficients: NDArray[np.int16]
    """Of one row of MCUs."""
    work: NDArray[np.int32]
    luma: NDArray[np.uint32]
    """Samples, four a word, as `blue` and `red`."""
    blue: NDArray[np.uint32]
    red: NDArray[np.uint32]
    pixels: Bytes


class BoxDecoder:
    """A decoder and its memory, for one thread."""

    def __init__(self) -> None:
        self._tables = new_tables()
        self._room = (0, 0, 0)
        self._memory = _memory_for(self._room)

    def decode(self, data: NDArray[np.uint8], height: int, width: int, box: Box) -> NDArray[np.uint8] | None:
        """Decode a box of a JPEG.

        Args:
            data: the bytes, 1-D, contiguous; may be read-only.
            height, width: what its frame header is expected to say.
            box: within the image, not empty.

        Returns:
            (y1 - y0, x1 - x0, 3) uint8, in memory that the next call of this object overwrites. None for a JPEG that
            is not of the common kind, or not sound as far as the box needs it.
        """
        room = (max(self._room[0], data.size), max(self._room[1], height), max(self._room[2], width))
        if room != self._room:
            self._room, self._memory = room, _memory_for(room)
        y0, x0, y1, x1 = box
        size = (y1 - y0) * (x1 - x0) * 3
        out = self._memory.pixels[:size].reshape(y1 - y0, x1 - x0, 3)
        return out if _decode(data, (height, width), (y0, x0), self._tables, self._memory, out) else None


def _memory_for(room: tuple[int, int, int]) -> _Memory:
    """Return memory for JPEGs of as many bytes, rows and columns."""
    size, height, width = room
    groups = width // (8 * LANES) + 2  # of a row of blocks
    words = (height + 64) * groups * 2 * LANES
    return _Memory(
        np.empty(size + SPARE, np.uint8),
        np.empty(4 * groups * GROUP, np.int16),
        np.empty(GROUP, np.int32),
        np.empty(words, np.uint32),
        np.empty(words, np.uint32),
        np.empty(words, np.uint32),
        np.empty(height * width * 3, np.uint8),
    )


@njit(nogil=True, cache=True)
def _decode(data, size, corner, tables, memory, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the box of its shape at `corner`; False where libjpeg is to judge."""
    header = read_header(data, tables)
    if (header.height, header.width) != size or not _known(data, header, tables):
        return False
    length, marker = copy_coded_data(data, header.data, memory.coded)
    if marker != len(data) - 2 or data[marker + 1] != 0xD9:
        return False
    rows = _units(corner[0], out.shape[0], size[0], header.down)
    columns = _units(corner[1], out.shape[1], size[1], header.across)
    if not _decode_units(data, header, length, rows, columns, tables, memory):
        return False
    _fill(header, rows, columns, corner, memory, out)
    return True


@njit(nogil=True, cache=True)
def _fill(header, rows, columns, corner, memory, out):  # type: ignore[no-untyped-def]
    """Convert the samples of the given rows and columns of MCUs to the pixels of `out`."""
    across, down = header.across, header.down
    height, units = 8 * (rows[1] - rows[0]), columns[1] - columns[0]
    luma_stride, chroma_stride = _groups(units * across) * 8 * LANES, _groups(units) * 8 * LANES
    part = Part(
        _samples(memory.luma, height * down, luma_stride),
        _samples(memory.blue, height, chroma_stride),
        _samples(memory.red, height, chroma_stride),
        8 * rows[0],
        8 * columns[0],
        -(-header.height // down),
        -(-header.width // across),
        down,
        across,
    )
    fill_pixels(part, corner[0], corner[1], out)


@njit(nogil=True, cache=True)
def _known(data: Bytes, header: Header, tables: HuffmanTables) -> bool | np.bool:
    """Whether the JPEG is of the kind that this module decodes."""
    ycbcr = header.adobe == 1 or (header.adobe == NO_ADOBE and (header.jfif or header.named))
    halved = (header.across, header.down) in ((1, 1), (2, 1), (2, 2))
    # libjpeg does not smooth chroma of one or two columns
    smooth = header.across == 1 or header.width > 4
    known = ycbcr and halved and smooth and header.interval == 0
    for component in range(3):
        dc, ac = header.slots[component] >> 4, header.slots[component] & 15
        known = known and tables.defined[dc] == 1 and tables.defined[ac] == 1
        known = known and header.quantization[component] > 0
    return known


@njit(nogil=True, cache=True)
def _units(start: Int, count: Int, size: Int, factor: Int) -> tuple[Int, Int]:
    """Return the first MCU of a range of pixels and the one after its last, along one axis.

    Where chroma is halved they hold one more sample of it on each side, as far as the image goes.
    """
    margin = factor - 1
    first = max(start // factor - margin, 0)
    last = min((start + count - 1) // factor + margin, (size - 1) // factor)
    return first // 8, last // 8 + 1


@njit(nogil=True, cache=True)
def _groups(blocks: Int) -> Int:
    return -(-blocks // LANES)


@njit(nogil=True, cache=True)
def _samples(words, height, stride):  # type: ignore[no-untyped-def]
    """See words as (height, stride) samples."""
    return words[: height * stride // 4].view(np.uint8).reshape(height, stride)


@njit(nogil=True, cache=True)
def _decode_units(data, header, length, rows, columns, tables, memory):  # type: ignore[no-untyped-def]
    """Fill the memory's planes with the samples of the MCUs of the given rows and columns."""
    across, down = header.across, header.down
    slots = _slots(header)
    places, luma_groups, chroma_groups = _places(columns[1] - columns[0], across, down)
    coefficients = memory.coefficients[: (down * luma_groups + 2 * chroma_groups) * GROUP]
    quantization = _quantization(data, header)
    blocks = len(slots)
    units = -(-header.width // (8 * across))
    sums = np.zeros(3, np.int64)
    state = (np.uint64(0), np.uint64(0), np.uint64(0))
    sound, state = skip_blocks(memory.coded, length, state, rows[0] * units * blocks, slots, sums, tables)
    for row in range(rows[1] - rows[0]):
        if sound:
            sound, state = skip_blocks(memory.coded, length, state, columns[0] * blocks, slots, sums, tables)
        if sound:
            coefficients[:] = 0
            sound, state = decode_blocks(
                memory.coded, length, state, places, slots, sums, tables, coefficients
            )
        if sound:
            after = (units - columns[1]) * blocks
            sound, state = skip_blocks(memory.coded, length, state, after, slots, sums, tables)
        if not sound:
            return False
        _transform(coefficients, quantization, row, (down, luma_groups, chroma_groups), memory)
    return all_there(state, length)


@njit(nogil=True, cache=True)
def _slots(header):  # type: ignore[no-untyped-def]
    """(b, 3) uint64 of each block of an MCU: component, DC slot, AC slot."""
    luma = header.across * header.down
    slots = np.empty((luma + 2, 3), np.uint64)
    for block in range(luma + 2):
        component = max(block + 1 - luma, 0)
        slot = header.slots[component]
        slots[block, 0], slots[block, 1], slots[block, 2] = component, slot >> 4, slot & 15
    return slots


@njit(nogil=True, cache=True)
def _places(units, across, down):  # type: ignore[no-untyped-def]
    """Where the blocks of a row of MCUs go, and how many groups a row of luma and of chroma blocks makes."""
    luma_groups, chroma_groups = _groups(units * across), _groups(units)
    places = np.empty(units * (across * down + 2), np.uint64)
    i = 0
    for unit in range(units):
        for y in range(down):
            for x in range(across):
                places[i] = _place(y * luma_groups, unit * across + x)
                i += 1
        places[i] = _place(down * luma_groups, unit)
        places[i + 1] = _place(down * luma_groups + chroma_groups, unit)
        i += 2
    return places, luma_groups, chroma_groups


@njit(nogil=True, cache=True)
def _place(group: Int, block: Int) -> Int:
    """Where a block of a row goes whose first group is given."""
    return (group + block // LANES) * GROUP + block % LANES


@njit(nogil=True, cache=True)
def _quantization(data, header):  # type: ignore[no-untyped-def]
    """(3, 64) int32: the table of each component in the order of rows."""
    tables = np.empty((3, 64), np.int32)
    for component in range(3):
        for k in range(64):
            tables[component, NATURAL[k]] = data[header.quantization[component] + k]
    return tables


@njit(nogil=True, cache=True)
def _transform(coefficients, quantization, row, groups, memory):  # type: ignore[no-untyped-def]
    """Turn the coefficients of a row of MCUs into rows of samples."""
    down, luma, chroma = groups
    for y in range(down):
        stride = luma * 2 * LANES
        words = memory.luma[(row * down + y) * 8 * stride :]
        transform_groups(
            coefficients[y * luma * GROUP : (y + 1) * luma * GROUP],
            quantization[0],
            memory.work,
            words,
            stride,
        )
    stride = chroma * 2 * LANES
    start = down * luma * GROUP
    middle = start + chroma * GROUP
    transform_groups(
        coefficients[start:middle], quantization[1], memory.work, memory.blue[row * 8 * stride :], stride
    )
    transform_groups(
        coefficients[middle:], quantization[2], memory.work, memory.red[row * 8 * stride :], stride
    )
