"""The part of `decode` that needs a GPU: which images DALI's engines and threads should decode.

The whole grid would take hours, so it is walked in two stages: the share of the hardware decoder with the Huffman
threshold first, then threads with prefetch; the best of both, CPU threads alone and the split are compared in turn.
Each stage has its share of the time, and what is likely to be good comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from benchmarks.decode_candidates import Candidate, best_of, try_all
from benchmarks.decoded_pixels import difference_rows
from benchmarks.peer import batch_for
from benchmarks.progress import Progress
from benchmarks.staged_feeds import Staged, open_staged_views
from pipelines.beton.reader import BetonFile
from pipelines.dali_graph import DaliSettings
from pipelines.user_error import UserError


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is tried."""

    shares: Sequence[float] = (0.65, 1.0, 0.8, 0.5, 0.0, 0.25)
    thresholds: Sequence[int] = (0, 1_000_000, 100_000)
    prefetches: Sequence[int] = (2, 4, 1)
    splits: Sequence[float] = (0.5, 0.75, 0.25)


LEFT_AFTER_FIRST, LEFT_AFTER_SECOND = 0.55, 0.35
"""Parts of the time that the first walk, and the second one, leave to what follows."""

Point = tuple[float, int, int, int]
"""(hardware share, Huffman threshold, threads, prefetch)."""


def sweep_gpu(
    beton: BetonFile, cores: int, seconds: float, progress: Progress, grid: Grid | None = None
) -> tuple[Candidate, list[str]]:
    """Walk the grid and keep a row of every point; returns the best settings found, and lines on them."""
    grid, time = grid or Grid(), progress.seconds_left()
    notes: list[str] = []
    progress.keep(difference_rows(beton, cores, torch.device("cuda"), notes))
    rates: dict[Point, float] = {}
    left_out = 0

    def best_after(points: Iterable[Point], to_leave: float) -> Point:
        nonlocal left_out
        for point in points:
            if point in rates:
                continue
            if rates and progress.seconds_left() < to_leave:
                left_out += 1
                continue
            candidate = dali_candidate(beton, cores, point)
            try:
                [row] = try_all([candidate], seconds, progress, 1)  # one by one: each holds GPU memory
                rates[point] = row.median
            except (RuntimeError, UserError) as error:  # an engine that fails is no end of the others
                rates[point] = 0.0
                notes.append(f"{candidate.name} failed: {' '.join(str(error).split())}")
        return max(rates, key=lambda point: rates[point])

    walk = product(grid.thresholds, grid.shares)
    best = best_after(((share, huffman, cores, 2) for huffman, share in walk), LEFT_AFTER_FIRST * time)
    walk_of_threads = product(grid.prefetches, thread_choices(cores))
    best = best_after(
        ((*best[:2], threads, ahead) for ahead, threads in walk_of_threads), LEFT_AFTER_SECOND * time
    )
    final = [
        dali_candidate(beton, cores, best, "dali-gpu"),
        cpu_candidate(beton, cores, best[3]),
        *(dali_candidate(beton, cores, best, f"split:{share}") for share in grid.splits),
    ]
    winner = best_of(final, try_all(final, seconds, progress))
    notes.append("The best is that of the loader alone; `step` says with which one the training is fastest.")
    if left_out:
        notes.append(f"{left_out} points of the grid were left out for want of time.")
    return winner, notes


def thread_choices(cores: int) -> list[int]:
    """A quarter, half, and all of the cores."""
    return sorted({max(1, cores // 4), max(1, cores // 2), cores})


def dali_candidate(beton: BetonFile, cores: int, point: Point, decode: str | None = None) -> Candidate:
    """Settings of DALI on the GPU; with `decode` a row of the final comparison, whose CPU threads are the cores."""
    share, threshold, threads, prefetch = point
    staged = Staged(
        decode=decode or "dali-gpu",
        dali=DaliSettings(threads=threads, hardware_share=share, huffman_threshold=threshold),
        prefetch=prefetch,
    )
    grid = f"grid/hardware {share:g}/huffman {threshold}/threads {threads}/prefetch {prefetch}"
    of_cpu = f"  threads: {cores}\n" if staged.decode.startswith("split") else ""
    return Candidate(
        grid if decode is None else f"best/{decode}",
        f"data:\n  decode: {staged.decode}\n{of_cpu}  prefetch: {prefetch}\ndali:\n  threads: {threads}\n"
        f"  hardware_share: {share:g}\n  huffman_threshold: {threshold}",
        partial(open_staged_views, beton, cores, batch_for(cores), staged),
    )


def cpu_candidate(beton: BetonFile, cores: int, prefetch: int) -> Candidate:
    """CPU threads alone, for the GPU."""
    return Candidate(
        "best/cpu",
        f"data:\n  decode: cpu\n  threads: {cores}\n  prefetch: {prefetch}",
        partial(open_staged_views, beton, cores, batch_for(cores), Staged(decode="cpu", prefetch=prefetch)),
    )
