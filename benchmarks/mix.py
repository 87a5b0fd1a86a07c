"""`mix`: our mix against the time that its bytes need, and against the alternatives, on the GPU or the CPU.

The floor is measured: a copy that reads and writes as many bytes in all as the mix must (MixUp reads both views of
a pair, CutMix one of them at each pixel). A second copy is the floor of views with a fourth, zero channel, whose loads
would be wide without further ado: no kernel that reads those is faster. On a GPU the images are bfloat16, times are
those of CUDA events, and the data are not in the L2 cache; on a CPU the images are float32, and ours runs on all the
cores given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from benchmarks.command import Command, whole
from benchmarks.gpu_timing import microseconds, sets_that_leave_the_cache
from benchmarks.measurement import NONE, OFFICIAL, Case, Row, find, row_of, sum_up, times, values_in_turn
from benchmarks.mixers import (
    Inputs,
    Mixer,
    compiled_pytorch,
    make_inputs,
    other_mixers,
    our_kernel,
    our_loop,
)
from benchmarks.progress import Progress
from benchmarks.results import Results
from pipelines.draws.colours import ColourSettings, draw_colour
from pipelines.draws.draw import Draw
from pipelines.thread_pool import ThreadPool
from pipelines.user_error import UserError

RUNS = 5
TIME = "microseconds_per_batch"
SHARE = "share_of_copy_bandwidth"
FLOOR = "copy"
FLOOR_OF_FOUR = "copy, four channels"
GOAL_SHARE = 85.0
"""Percent of the GPU's copy bandwidth."""
GOALS = (("plain-pytorch", 8.0), ("torch-compile", 1.2))
"""How many times as fast as these the kernel should be on a GPU."""


def run(options: argparse.Namespace) -> Results:
    """Measure on the GPU if there is one, else on the CPU."""
    pairs = options.images // 2
    if pairs % 2 or pairs == 0:
        raise UserError(
            f"--images {options.images}: give a multiple of 4 (timm mixes an even number of pairs)"
        )
    if torch.cuda.is_available():
        rows = gpu_rows(pairs, options.size, options.seconds, options.progress)
        return _results(rows, "our-kernel", pairs, options.size)
    rows = cpu_rows(pairs, options.size, options.seconds, options.cores, options.progress)
    return _results(rows, "our-loop", pairs, options.size)


def gpu_rows(pairs: int, size: int, seconds: float, progress: Progress) -> list[Row]:
    """Rows of everything that mixes on a GPU, of the copy, and of the colour augmentation."""
    device = torch.device("cuda")
    first = make_inputs(pairs, size, torch.bfloat16, device, 0)
    count = sets_that_leave_the_cache(first.needed_bytes())
    sets = [first, *(make_inputs(pairs, size, torch.bfloat16, device, seed) for seed in range(1, count))]

    def measured(launches: list[Callable[[], object]]) -> Callable[[], float]:
        return lambda: microseconds(launches, seconds)

    def copies(needed_bytes: int) -> list[Callable[[], object]]:
        halves = [torch.empty((2, needed_bytes // 2), dtype=torch.uint8, device=device) for _ in sets]
        return [partial(target.copy_, source) for target, source in halves]

    cases = [
        _case(FLOOR, measured(copies(first.needed_bytes()))),
        _case(FLOOR_OF_FOUR, measured(copies(first.needed_bytes(channels=4)))),
    ]
    mixers: dict[str, Mixer] = {
        "our-kernel": our_kernel,
        "torch-compile": compiled_pytorch(),
        **other_mixers(),
    }
    cases += [
        _case(name, measured([partial(mixer, each) for each in sets])) for name, mixer in mixers.items()
    ]
    cases.append(_case("our-augmentation", measured(_augmentations(sets)), OFFICIAL))
    return _rows(cases, first.needed_bytes(), "our-kernel", progress)


def cpu_rows(pairs: int, size: int, seconds: float, cores: int, progress: Progress) -> list[Row]:
    """Rows of everything that mixes on a CPU, and of the copy; all on `cores` threads."""
    inputs = make_inputs(pairs, size, torch.float32, torch.device("cpu"), 0)
    source, target = np.ones((2, inputs.needed_bytes() // 2), np.uint8)
    with ThreadPool(cores) as pool, _intra_op_threads(cores):

        def copy(start: int, stop: int) -> None:
            np.copyto(target[start:stop], source[start:stop])

        cases = [_case(FLOOR, lambda: _wall(lambda: pool.map_slices(copy, len(source), 1 << 20), seconds))]
        mixers = {"our-loop": our_loop(pool), **other_mixers()}
        cases += [
            _case(name, partial(_wall, partial(mixer, inputs), seconds)) for name, mixer in mixers.items()
        ]
        return _rows(cases, inputs.needed_bytes(), "our-loop", progress)


def notes(rows: Sequence[Row], ours: str, subject: str) -> list[str]:
    """Say what was mixed, and of each goal whether it is reached; goals are for a GPU."""
    said = [
        f"Mixed: {subject}. torchvision and timm mix images of one stream; the -batch ones and torchvision "
        "draw one λ and box a batch."
    ]
    share = find(rows, ours, SHARE)
    assert share is not None
    on_gpu = ours == "our-kernel"
    reached = f": goal {GOAL_SHARE:g} % {_reached(share.median >= GOAL_SHARE)}" if on_gpu else ""
    said.append(f"{ours} moves its bytes at {share.median:.1f} % of the copy bandwidth{reached}.")
    four = times(rows, FLOOR_OF_FOUR, ours, TIME)
    if four is not None:
        pays = "might pay" if four < 1 else "cannot pay"
        said.append(f"Views of four channels take {four:.2f} times as long as {ours} at least: they {pays}.")
    for other, goal in GOALS:
        ratio = times(rows, other, ours, TIME)
        if ratio is not None:
            reached = f": goal {goal:g} times {_reached(ratio >= goal)}" if on_gpu else ""
            said.append(f"{ours} is {ratio:.2f} times as fast as {other}{reached}.")
    return said


def _reached(yes: bool) -> str:
    return "reached" if yes else "NOT reached"


def _results(rows: list[Row], ours: str, pairs: int, size: int) -> Results:
    return Results(
        title="Mixing a batch",
        rows=rows,
        drawn=(TIME, SHARE),
        notes=notes(rows, ours, f"{pairs} pairs of {size} x {size} pixels, two mixed images of each"),
    )


def _rows(cases: Sequence[Case], needed_bytes: int, ours: str, progress: Progress) -> list[Row]:
    """Measure the cases, the floor first, and add what follows from their times."""

    def rows(values: Sequence[Sequence[float]]) -> list[Row]:
        by_name = dict(zip([case.name for case in cases], values, strict=True))
        bandwidth = [needed_bytes / (1000 * each) for each in by_name[FLOOR]]
        shares = [100 * least / own for least, own in zip(by_name[FLOOR], by_name[ours], strict=True)]
        return [
            row_of(bandwidth, name=FLOOR, metric="copy_bandwidth", unit="GB/s"),
            *sum_up(cases, values),
            row_of(shares, name=ours, metric=SHARE, unit="%"),
        ]

    progress.keep(rows(values_in_turn(cases, RUNS, after_round=progress.rounds(rows))))
    return progress.rows


def _case(name: str, measure: Callable[[], float], augmentation: str = NONE) -> Case:
    return Case(name=name, metric=TIME, unit="µs", augmentation=augmentation, measure=measure)


def _augmentations(sets: Sequence[Inputs]) -> list[Callable[[], object]]:
    """The official colour augmentation of all views of each set, in place."""
    from pipelines.augment_gpu import augment_on_device, colour_parameters  # Triton is not everywhere

    launches: list[Callable[[], object]] = []
    for seed, inputs in enumerate(sets):
        views = [torch.cat(streams) for streams in zip(inputs.views_a, inputs.views_b, strict=True)]
        draws = draw_colour(Draw(seed, 0, np.arange(len(views) * len(views[0]))), ColourSettings())
        launches.append(partial(augment_on_device, views, colour_parameters([draws], views[0].device)))
    return launches


def _wall(step: Callable[[], object], seconds: float) -> float:
    """Microseconds of one step, on average over `seconds`."""
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        steps += 1
    return 1e6 * elapsed / steps


@contextmanager
def _intra_op_threads(count: int) -> Iterator[None]:
    """Let PyTorch's operators use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=whole, default=224, metavar="S", help="side of a view (default: 224)")


COMMAND = Command(
    name="mix",
    summary="our mix against memory bandwidth and the alternatives",
    text=__doc__,
    run=run,
    seconds=1.0,
    minutes=5.0,
    add_options=_add_options,
)
