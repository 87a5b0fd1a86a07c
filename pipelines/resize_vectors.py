"""The two sums of a resize as operations on vectors, which numba has no types for.

They are written in LLVM's language of vectors, not in a processor's instructions, so every processor that LLVM knows
runs them, and to the same bits. Both multiply 16 bits by 16 and keep the upper half of the product. Processors have an
instruction for that, but compilers do not find it in a loop over bytes: they widen to 32 bits, at half the speed.

Compiled code calls them. Nothing checks that what they read and write is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ROW_LANES = 32
"""Bytes that `weigh_rows` takes from each row."""
PAIR_LANES = 8
"""Lanes for two pixels of three channels; the last two are spare."""

_I8, _I16, _I32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_ROW, _PAIR = ir.VectorType(_I16, ROW_LANES), ir.VectorType(_I16, PAIR_LANES)
_ROW_BYTES, _PAIR_BYTES = ir.VectorType(_I8, ROW_LANES), ir.VectorType(_I8, PAIR_LANES)


def _operation(build: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operation of what describes it to numba: its types, and what writes its instructions."""
    operation: Callable[..., Any] = intrinsic(build)
    return operation


@_operation
def weigh_rows(
    typing: Any, pixels: Any, place: Any, stride: Any, weights: Any, bias: Any, line: Any, at: Any
) -> Any:
    """Write the weighted sum of `ROW_LANES` bytes of some rows.

    Args:
        pixels: uint8, the rows.
        place: where the bytes of the first row are.
        stride: from a row to the next.
        weights: (rows,) uint16, of 2^16.
        bias: uint16, added to each sum.
        line: uint16; sums in 2^-8 of a level go there, from `at` on.
    """

    def generate(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        _, place, stride, _, bias, _, at = operands
        pixels, weights, line = (_array(context, builder, signature, operands, i) for i in (0, 3, 5))
        total = cgutils.alloca_once_value(builder, _splat(builder, bias))
        # a zero before each byte: read as a little-endian number it is the byte times 2^8
        with_zeros = _lanes(lane for i in range(ROW_LANES) for lane in (i, ROW_LANES + i))
        with cgutils.for_range(builder, weights.nitems) as loop:
            row = _load(builder, pixels, builder.add(place, builder.mul(loop.index, stride)), _ROW_BYTES)
            row = builder.bitcast(builder.shuffle_vector(_ROW_BYTES(None), row, with_zeros), _ROW)
            weight = _splat(builder, builder.load(builder.gep(weights.data, [loop.index])))
            builder.store(builder.add(builder.load(total), _upper_half(builder, row, weight)), total)
        _store(builder, builder.load(total), line, at)
        return context.get_dummy_value()

    number = types.uint64
    return types.void(pixels, number, number, weights, types.uint16, line, number), generate


@_operation
def weigh_pixels(typing: Any, line: Any, place: Any, weights: Any, first: Any, pairs: Any) -> Any:
    """Return the weighted sum of 2 x `pairs` pixels as three bytes, red the lowest; the fourth is of no use.

    Args:
        line: uint16, in 2^-8 of a level, three channels a pixel.
        place: where the pixels begin. `PAIR_LANES` are read of each pair, six of them used.
        weights: uint16, of 2^16: `PAIR_LANES` a pair, three times the one's, three times the other's, two zeros.
        first: where this sum's weights begin.
        pairs: how many; fast where it is a constant.
    """

    def generate(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        _, place, _, first, pairs = operands
        line, weights = (_array(context, builder, signature, operands, i) for i in (0, 2))
        total = cgutils.alloca_once_value(builder, _PAIR(None))
        with cgutils.for_range(builder, pairs) as loop:
            pixels = _load(builder, line, builder.add(place, builder.mul(loop.index, place.type(6))), _PAIR)
            at = builder.add(first, builder.mul(loop.index, first.type(PAIR_LANES)))
            product = _upper_half(builder, pixels, _load(builder, weights, at, _PAIR))
            builder.store(builder.add(builder.load(total), product), total)
        both = builder.load(total)
        second = builder.shuffle_vector(both, _PAIR(None), _lanes([3, 4, 5, 6, 7, 8, 8, 8]))
        levels = builder.lshr(builder.add(both, second), _PAIR([8] * PAIR_LANES))
        levels = builder.trunc(levels, _PAIR_BYTES)
        return builder.bitcast(builder.shuffle_vector(levels, levels, _lanes(range(4))), _I32)

    return types.uint32(line, types.uint64, weights, types.uint64, types.intp), generate


@_operation
def store_word(typing: Any, word: Any, out: Any, at: Any) -> Any:
    """Write the four bytes of `word`, the lowest first, to `out`, uint8, from `at` on."""

    def generate(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
        _store(builder, operands[0], _array(context, builder, signature, operands, 1), operands[2])
        return context.get_dummy_value()

    return types.void(types.uint32, out, types.uint64), generate


def _array(context: Any, builder: Any, signature: Any, operands: Any, i: int) -> Any:
    return context.make_array(signature.args[i])(context, builder, operands[i])


def _load(builder: Any, array: Any, at: Any, kind: Any) -> Any:
    value = builder.load(builder.bitcast(builder.gep(array.data, [at]), kind.as_pointer()))
    value.align = 1
    return value


def _store(builder: Any, value: Any, array: Any, at: Any) -> None:
    address = builder.bitcast(builder.gep(array.data, [at]), value.type.as_pointer())
    builder.store(value, address).align = 1


def _upper_half(builder: Any, a: Any, b: Any) -> Any:
    """The upper 16 bits of the products of unsigned numbers."""
    wide = ir.VectorType(_I32, a.type.count)
    product = builder.mul(builder.zext(a, wide), builder.zext(b, wide))
    return builder.trunc(builder.lshr(product, wide([16] * a.type.count)), a.type)


def _splat(builder: Any, value: Any) -> Any:
    """A row's lanes of one value."""
    first = builder.insert_element(_ROW(ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(first, _ROW(ir.Undefined), _lanes([0] * ROW_LANES))


def _lanes(which: Any) -> Any:
    chosen: Sequence[int] = list(which)
    return ir.VectorType(_I32, len(chosen))(chosen)
