from __future__ import annotations

import platform

import numpy as np
from numba import njit

from pipelines.resize_vectors import PAIR_LANES, ROW_LANES, store_word, weigh_pixels, weigh_rows


@njit
def _rows(pixels, place, stride, weights, bias, line, at):  # type: ignore[no-untyped-def]
    weigh_rows(pixels, place, stride, weights, bias, line, at)


@njit
def _pixels(line, place, weights, first, pairs):  # type: ignore[no-untyped-def]
    return weigh_pixels(line, place, weights, first, pairs)


@njit
def _word(word, out, at):  # type: ignore[no-untyped-def]
    store_word(word, out, at)


def test_rows_are_weighed_and_nothing_else_is_written() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 71)).astype(np.uint8)
    weights = np.array([9000, 30000, 26536], np.uint16)
    line = np.full(3 * ROW_LANES, 12345, np.uint16)
    _rows(pixels.reshape(-1), np.uint64(71 + 20), np.uint64(71), weights, np.uint16(130), line, np.uint64(17))
    products = pixels[1:4, 20 : 20 + ROW_LANES].astype(int) * 256 * weights[:, None].astype(int) // 65536
    assert line[17 : 17 + ROW_LANES].tolist() == (products.sum(0) + 130).tolist()
    assert (line[:17] == 12345).all() and (line[17 + ROW_LANES :] == 12345).all()


def test_pixels_are_weighed() -> None:
    rng = np.random.default_rng(1)
    line = rng.integers(0, 65536, 100).astype(np.uint16)
    weights = np.zeros((7, PAIR_LANES), np.uint16)
    for pairs, share in ((1, 30000), (2, 16000), (3, 10900), (5, 6500)):
        parts = rng.integers(1, share, 2 * pairs)
        weights[2 : 2 + pairs, :3], weights[2 : 2 + pairs, 3:6] = parts[::2, None], parts[1::2, None]
        first = np.uint64(2 * PAIR_LANES)
        word = int(_pixels(line, np.uint64(31), weights.reshape(-1), first, pairs))
        pixels = line[31 : 31 + 6 * pairs].reshape(-1, 3).astype(int)
        sums = (pixels * parts[:, None] // 65536).sum(0)
        assert [word >> 8 * i & 255 for i in range(3)] == (sums // 256).tolist()


def test_a_word_is_stored_lowest_byte_first() -> None:
    out = np.zeros(9, np.uint8)
    _word(np.uint32(0x04030201), out, np.uint64(3))
    assert out.tolist() == [0, 0, 0, 1, 2, 3, 4, 0, 0]


def test_the_upper_half_of_a_product_is_one_instruction() -> None:
    """Else this module has lost its purpose."""
    numbers = (np.uint64(0), np.uint64(71))
    line, weights = np.zeros(64, np.uint16), np.ones(16, np.uint16)
    _rows(np.zeros(355, np.uint8), *numbers, weights[:3], np.uint16(0), line, np.uint64(0))
    _pixels(line, np.uint64(0), weights, np.uint64(0), 2)
    instruction = {"x86_64": "pmulhuw", "aarch64": "umull"}[platform.machine()]
    for compiled in (_rows, _pixels):
        [code] = compiled.inspect_asm().values()
        assert instruction in code and "pmulld" not in code
