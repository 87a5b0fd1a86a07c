"""`decode`: which settings of the decoder are best on this machine; prints the YAML lines to paste.

A source image is decoded once and cropped twice, as in training. On a CPU numbers of threads are tried, on a
GPU DALI's settings, CPU threads, and the split of both (decode_gpu.py), and how far their pixels are from libjpeg's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.command import Command, add_beton_option
from benchmarks.feed import Feed
from benchmarks.loader import SOURCES
from benchmarks.measurement import CROP_FLIP, Case, Row, sum_up, values_in_turn
from benchmarks.our_feeds import open_views
from benchmarks.peer import batch_for
from benchmarks.photographs import open_photographs
from benchmarks.progress import Progress
from benchmarks.results import Results
from pipelines.beton.reader import BetonFile

RUNS = 5
METRIC = "source_decodes_per_second"


@dataclass(frozen=True)
class Candidate:
    """Settings to try."""

    name: str
    yaml: str
    """Lines for a configuration."""
    open: Callable[[], Feed]


def run(options: argparse.Namespace) -> Results:
    """Try the candidates in turn."""
    progress: Progress = options.progress
    with open_photographs(options) as photographs:
        progress.keep(photographs.rows())
        if torch.cuda.is_available():
            from benchmarks.decode_gpu import sweep_gpu  # which imports this module

            best, notes = sweep_gpu(photographs.beton, options.cores, options.seconds, progress)
        else:
            candidates = cpu_candidates(photographs.beton, options.cores)
            rows = try_all(candidates, options.seconds, progress)
            best, notes = best_of(candidates, rows), []
    return Results(
        title="Source decodes a second, two crops each, by the settings of the decoder",
        rows=progress.rows,
        drawn=(METRIC,),
        notes=[*notes, f"Best on this machine: {best.name}. For a configuration:", best.yaml],
    )


def cpu_candidates(beton: BetonFile, cores: int) -> list[Candidate]:
    """Numbers of threads from half as many as cores to twice as many."""
    choices = sorted({max(1, cores // 2), cores, cores + cores // 2, 2 * cores})
    return [
        Candidate(
            f"cpu/threads {threads}",
            f"data:\n  threads: {threads}",
            partial(open_views, beton, threads, batch_for(cores), CROP_FLIP),
        )
        for threads in choices
    ]


def try_all(
    candidates: Sequence[Candidate], seconds: float, progress: Progress, runs: int = RUNS
) -> list[Row]:
    """Measure the candidates in turn and keep a row for each."""
    with ExitStack() as stack:
        cases = []
        for candidate in candidates:
            feed = candidate.open()
            stack.callback(feed.close)
            cases.append(_case(candidate, feed, seconds))
        values = values_in_turn(
            cases, runs, after_round=progress.rounds(lambda values: sum_up(cases, values))
        )
        rows = sum_up(cases, values)
    progress.keep(rows)
    return rows


def best_of(candidates: Sequence[Candidate], rows: Sequence[Row]) -> Candidate:
    """Return the candidate whose row, in the same place, has the highest median."""
    return candidates[max(range(len(rows)), key=lambda i: rows[i].median)]


def _case(candidate: Candidate, feed: Feed, seconds: float) -> Case:
    return Case(
        name=candidate.name,
        metric=METRIC,
        unit="images/s",
        augmentation=CROP_FLIP,
        measure=lambda: SOURCES * feed.run_from_idle(seconds).pairs_per_second,
    )


COMMAND = Command(
    name="decode",
    summary="the best settings of the decoder for this machine",
    text=__doc__,
    run=run,
    seconds=1.0,
    minutes=7.0,
    add_options=add_beton_option,
)
