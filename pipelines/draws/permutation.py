"""A pseudo-random permutation of range(n), evaluated point by point and never stored.

A Feistel network over a grid of `rows` x `columns` >= n cells: every round shifts each row by its own random
amount, then each column by its own. Each shift can be undone, so each round is a permutation of the grid, and
so are all of them together. The grid has at most a row more than n cells; a result outside range(n) is sent
through the network again until it falls inside (cycle walking), which makes it a permutation of range(n).
Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002), with additions modulo the sides in
place of exclusive or.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.draws.philox import WORD, philox_block

ROUNDS = 16
"""Shifts in all, half of rows and half of columns. Four look random on a large grid (Luby and Rackoff, 1988),
small grids need more: with 16 the 24 orders of 4 images are equally likely within 0.01 %, the 720 of 6 within
6 %."""


def permuted(
    positions: NDArray[np.int64], n: int, seed: int, epoch: int, tag: np.uint64
) -> NDArray[np.int64]:
    """Images of `positions` (each in [0, n)) under the permutation of range(n) that (seed, epoch, tag) name:
    int64.

    `tag` is word 3 of the Philox counters (see draw.py), the round being its block; words 0 and 1 hold the
    row or column that is shifted.
    """
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    return _permuted(positions, n, rows, columns, np.uint64(seed), np.uint64(epoch), tag)


@njit(nogil=True, cache=True)
def _permuted(
    positions: NDArray[np.int64],
    n: int,
    rows: int,
    columns: int,
    seed: np.uint64,
    epoch: np.uint64,
    tag: np.uint64,
) -> NDArray[np.int64]:
    values = np.empty(len(positions), np.int64)
    for i in range(len(positions)):
        value = positions[i]
        while True:
            row, column = divmod(value, columns)
            for turn in range(0, ROUNDS, 2):
                column = (column + _shift(row, seed, epoch, tag + np.uint64(turn), columns)) % columns
                row = (row + _shift(column, seed, epoch, tag + np.uint64(turn + 1), rows)) % rows
            value = row * columns + column
            if value < n:
                break
        values[i] = value
    return values


@njit(nogil=True, cache=True)
def _shift(line: int, seed: np.uint64, epoch: np.uint64, tag: np.uint64, size: int) -> int:
    """How far row or column `line` is shifted: 64 random bits modulo `size`, uniform within size / 2^64."""
    word = np.uint64(line)
    w0, w1, _, _ = philox_block(word & WORD, word >> np.uint64(32), epoch, tag, seed)
    return int(((w0 << np.uint64(32)) | w1) % np.uint64(size))
