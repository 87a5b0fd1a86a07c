"""The part of `decode` that needs a GPU: which images DALI's engines and threads should decode.

The whole grid would take hours, so it is walked in two stages: the share of the hardware decoder with the Huffman
threshold first, then threads with prefetch; the best of both, CPU threads alone and the split are compared in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

from benchmarks.decode import Candidate, try_all
from benchmarks.measurement import Row
from benchmarks.peer import batch_for
from benchmarks.staged_feeds import Staged, open_staged_views
from pipelines.beton_reader import BetonFile
from pipelines.dali_graph import DaliSettings

SHARES = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
THRESHOLDS = (0, 100_000, 1_000_000)
PREFETCHES = (1, 2, 4)
SPLITS = (0.25, 0.5, 0.75)

Point = tuple[float, int, int, int]
"""(hardware share, Huffman threshold, threads, prefetch)."""


def sweep_gpu(beton: BetonFile, cores: int, seconds: float) -> tuple[list[Row], Candidate]:
    """Walk the grid; rows of every point, and the best settings found."""

    def tried(points: Sequence[Point], runs: int) -> tuple[list[Row], Point]:
        rows: list[Row] = []
        for point in points:  # one by one: each holds GPU memory
            rows += try_all([dali_candidate(beton, cores, point)], seconds, runs)[0]
        return rows, points[max(range(len(points)), key=lambda i: rows[i].median)]

    first, best = tried([(s, t, cores, 2) for s, t in product(SHARES, THRESHOLDS)], 1)
    others = [(best[0], best[1], n, p) for n, p in product(thread_choices(cores), PREFETCHES)]
    second, best = tried([point for point in others if point != (best[0], best[1], cores, 2)] + [best], 1)
    names = {row.name for row in second}
    final = [
        dali_candidate(beton, cores, best, "dali-gpu"),
        *(dali_candidate(beton, cores, best, f"split:{share}") for share in SPLITS),
    ]
    rows, winner = try_all(final, seconds, 5)
    return [*(row for row in first if row.name not in names), *second, *rows], winner


def thread_choices(cores: int) -> list[int]:
    """A quarter, half, and all of the cores."""
    return sorted({max(1, cores // 4), max(1, cores // 2), cores})


def dali_candidate(beton: BetonFile, cores: int, point: Point, decode: str | None = None) -> Candidate:
    """Settings of DALI on the GPU; with `decode` a row of the final comparison."""
    share, threshold, threads, prefetch = point
    staged = Staged(
        decode=decode or "dali-gpu",
        dali=DaliSettings(threads=threads, hardware_share=share, huffman_threshold=threshold),
        prefetch=prefetch,
    )
    grid = f"grid/hardware {share:g}/huffman {threshold}/threads {threads}/prefetch {prefetch}"
    return Candidate(
        grid if decode is None else f"best/{decode}",
        f"data:\n  decode: {staged.decode}\n  prefetch: {prefetch}\ndali:\n  threads: {threads}\n"
        f"  hardware_share: {share:g}\n  huffman_threshold: {threshold}",
        partial(open_staged_views, beton, threads, batch_for(cores), staged),
    )
