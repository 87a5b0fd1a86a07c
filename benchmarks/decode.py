"""`decode`: which settings of the decoder are best on this machine; prints the YAML lines to paste.

A source image is decoded once and cropped twice, as in training. On a CPU numbers of threads are tried, on a
GPU DALI's settings and the split with CPU threads (decode_gpu.py).
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
from benchmarks.results import Results
from pipelines.beton_reader import BetonFile

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
    with open_photographs(options) as photographs:
        if torch.cuda.is_available():
            from benchmarks.decode_gpu import sweep_gpu  # which imports this module

            rows, best = sweep_gpu(photographs.beton, options.cores, options.seconds)
        else:
            rows, best = try_all(cpu_candidates(photographs.beton, options.cores), options.seconds)
        about = photographs.rows()
    return Results(
        title="Source decodes a second, two crops each, by the settings of the decoder",
        rows=[*rows, *about],
        drawn=(METRIC,),
        notes=[f"Best on this machine: {best.name}. For a configuration:", best.yaml],
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


def try_all(candidates: Sequence[Candidate], seconds: float, runs: int = RUNS) -> tuple[list[Row], Candidate]:
    """Measure the candidates in turn: a row for each, and the one with the highest median."""
    with ExitStack() as stack:
        cases = []
        for candidate in candidates:
            feed = candidate.open()
            stack.callback(feed.close)
            cases.append(_case(candidate, feed, seconds))
        rows = sum_up(cases, values_in_turn(cases, runs))
    best = max(range(len(rows)), key=lambda i: rows[i].median)
    return rows, candidates[best]


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
    add_options=add_beton_option,
)
