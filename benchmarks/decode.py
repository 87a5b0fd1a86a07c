"""`decode`: which settings of the decoder are best on this machine; prints the YAML lines to paste.

A source image is decoded once and cropped twice, as in training. On a CPU numbers of threads are tried, on a
GPU DALI's settings, CPU threads, and the split of both (decode_gpu.py), and how far their pixels are from libjpeg's.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from benchmarks.command import Command, add_beton_option
from benchmarks.decode_candidates import METRIC, Candidate, best_of, try_all
from benchmarks.decode_gpu import sweep_gpu
from benchmarks.measurement import CROP_FLIP
from benchmarks.our_feeds import open_views
from benchmarks.peer import batch_for
from benchmarks.photographs import open_photographs
from benchmarks.progress import Progress
from benchmarks.results import Results
from pipelines.beton.reader import BetonFile


def run(options: argparse.Namespace) -> Results:
    """Try the candidates in turn."""
    progress: Progress = options.progress
    with open_photographs(options) as photographs:
        progress.keep(photographs.rows())
        if torch.cuda.is_available():
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


COMMAND = Command(
    name="decode",
    summary="the best settings of the decoder for this machine",
    text=__doc__,
    run=run,
    seconds=1.0,
    minutes=7.0,
    add_options=add_beton_option,
)
