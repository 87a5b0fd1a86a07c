"""In which order the rows of a list go into the file: as listed, or shuffled by a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.draws.permutation import permuted
from pipelines.sources.image_list import ImageList

PURPOSE = np.uint64(0xF11E_0000)
"""Word 3 of the Philox counters; no draw of the training has it."""
CHUNK = 1 << 16
"""Rows that are looked at together."""


@dataclass(frozen=True, kw_only=True)
class RowOrder:
    """A permutation of n rows that is computed where it is needed, not stored."""

    n: int
    seed: int | None
    """None: as listed."""

    def rows(self, places: np.ndarray) -> np.ndarray:
        """Return the (m,) int64 rows at the places, (m,) int64, of the file."""
        return places if self.seed is None else permuted(places, self.n, self.seed, 0, PURPOSE)


def chunks_of(places: np.ndarray, order: RowOrder) -> Iterator[np.ndarray]:
    """Return the rows at the places, a chunk after the other."""
    for start in range(0, len(places), CHUNK):
        yield order.rows(places[start : start + CHUNK])


def joined_paths(images: ImageList, rows: np.ndarray) -> bytes:
    """Return the paths of the rows, each followed by a newline."""
    paths, starts, ends = images.paths, images.starts[rows].tolist(), images.starts[rows + 1].tolist()
    return b"".join(bytes(paths[start : end - 1]) + b"\n" for start, end in zip(starts, ends, strict=True))
