"""The GPU time that a decoder's kernels take for a batch, while nothing else runs on the GPU.

Beside a training step they would be slower, and their slowness no property of theirs. So the trainer is idle, all that
was prepared ahead is done before the clock starts, and as many batches are made as are taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

import torch

from benchmarks.gpu_kernels import busy_milliseconds, kernels_of

BATCHES = 6
"""In the trace."""
AT_ONCE = 0.05
"""Seconds of patience on top, for a decoder whose batches take next to nothing."""


def streams_of(run: Callable[[], object]) -> set[int]:
    """Numbers of the streams that something uses."""
    return set(kernels_of(run))


def kernel_milliseconds_per_batch(
    batches: Iterator[object], ahead: int, of_the_trainer: Collection[int]
) -> float:
    """Time in which kernels of a batch run, those on the trainer's streams (the mix) left out.

    The iterator prepares up to `ahead` batches while nobody asks for one.
    """
    start = time.perf_counter()
    _take(batches, ahead + 2)  # more than lay ready, so that some of them are waited for
    rest = (ahead + 1) * (time.perf_counter() - start) + AT_ONCE

    def from_idle_to_idle() -> None:
        _take(batches, BATCHES)
        time.sleep(rest)

    time.sleep(rest)
    torch.cuda.synchronize()
    kernels = kernels_of(from_idle_to_idle)
    spans = [span for stream, of_it in kernels.items() if stream not in of_the_trainer for span in of_it]
    return busy_milliseconds(spans) / BATCHES


def ceiling(step_milliseconds: float, decoder_milliseconds: float) -> float:
    """Percent of its own speed that a step can reach beside kernels that take so much of the GPU's time.

    One minus their share of the time of a step in which they follow one another.
    """
    return 100 * step_milliseconds / (step_milliseconds + decoder_milliseconds)


def _take(batches: Iterator[object], count: int) -> None:
    for _ in range(count):
        next(batches)
    torch.cuda.synchronize()
