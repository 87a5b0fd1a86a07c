"""`loader`: how fast our loader is, over threads and batch sizes, with a warm and a cold page cache.

Beside each number of threads stands the ceiling of decoding alone: libjpeg-turbo through torchvision's
`decode_jpeg`, every source once, whole, no crop, on as many threads of the same pool. Our share of it is a row.

Settings of one number of threads take turns, with that ceiling: first on all cores, then with a cold page cache, then
on half of the cores and so on, as far as --minutes go. Beside its seconds a run waits for some five batches, so fewer
threads, and larger batches, take longer.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import torch

from benchmarks.command import Command, add_beton_option, whole
from benchmarks.decode_only import decoding
from benchmarks.feed import Feed
from benchmarks.held_memory import anonymous_memory, device_memory, give_back_memory
from benchmarks.measurement import CROP_FLIP, Case, Row, row_of, sum_up, values_in_turn
from benchmarks.our_feeds import open_views
from benchmarks.page_cache import drop_from_page_cache
from benchmarks.photographs import open_photographs
from benchmarks.progress import Progress
from benchmarks.results import Results
from benchmarks.staged_feeds import SPLIT, Staged, open_staged_views
from pipelines.beton.manifest import manifest_path
from pipelines.beton.reader import BetonFile, open_beton

RUNS = 5
BATCHES = (32, 128)
"""Pairs of a batch. A run needs some batches beside its seconds, so the largest one decides how long it all takes."""
SOURCES, CROPS = 2, 4
"""Of a pair."""
STILL_THERE = 0.05
"""Share of a dropped file's pages above which the machine is said to keep its page cache."""


def _open_staged(decode: str, beton: BetonFile, threads: int, batch: int, augmentation: str) -> Feed:
    assert augmentation == CROP_FLIP
    return open_staged_views(beton, threads, batch, Staged(decode=decode))


Opener = Callable[[BetonFile, int, int, str], Feed]
"""(beton, threads, pairs of a batch, augmentation) -> feed."""

BACKENDS: dict[str, Opener] = {"ours-cpu": open_views, "ours-dali-cpu": partial(_open_staged, "dali-cpu")}
GPU_BACKENDS: dict[str, Opener] = {
    "ours-dali-gpu": partial(_open_staged, "dali-gpu"),
    "ours-split": partial(_open_staged, SPLIT),
}


@dataclass
class Setting:
    """One backend with one number of threads and one size of batch; remembers what its runs took."""

    backend: str
    threads: int
    batch: int
    feed: Feed
    peak_memory: list[Row]
    """What it held at most, of the host's and of the GPU's memory, in its first run."""
    cores_used: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What its rows are called."""
        return _name(self.backend, self.threads, self.batch)

    def case(self, seconds: float) -> Case:
        """Pairs a second of one run."""

        def measure() -> float:
            timed = self.feed.run_from_idle(seconds)
            self.cores_used.append(timed.cores_used)
            return timed.pairs_per_second

        return _case(self.name, "pairs_per_second", "pairs/s", measure)

    def rows(self, pairs: Sequence[float], ceiling: Sequence[float]) -> list[Row]:
        """Sum up; both (runs,): pairs a second, and sources a second of decoding alone with as many threads."""
        decodes = [SOURCES * value for value in pairs]
        shares = [100 * own / most for own, most in zip(decodes, ceiling, strict=True)]
        return [
            self._row(pairs, "pairs_per_second", "pairs/s"),
            self._row(decodes, "source_decodes_per_second", "images/s"),
            self._row([CROPS * value for value in pairs], "crops_per_second", "crops/s"),
            self._row(shares, "share_of_decode_ceiling", "%"),
            self._row(self.cores_used[-len(pairs) :], "cores_used", "cores"),
            *self.peak_memory,
        ]

    def _row(self, values: Sequence[float], metric: str, unit: str) -> Row:
        return _row(values, self.name, metric, unit)


def run(options: argparse.Namespace) -> Results:
    """Measure all cores, the cold page cache, and fewer threads while there is time."""
    progress: Progress = options.progress
    with open_photographs(options) as photographs:
        print(f"{len(photographs.labels)} photographs, {photographs.beton.path}", flush=True)
        progress.keep(photographs.rows())
        most, *fewer = reversed(thread_choices(options.cores))
        measure_warm(photographs.beton, most, options.batches, options.seconds, progress)
        notes = measure_cold(photographs.beton, most, options.batches[0], progress)
        notes += measure_fewer(photographs.beton, fewer, options, progress)
    return Results(
        title="The loader by threads and batch size",
        rows=progress.rows,
        drawn=("pairs_per_second", "source_decodes_per_second", "share_of_decode_ceiling"),
        notes=notes,
    )


def measure_fewer(
    beton: BetonFile, fewer: Sequence[int], options: argparse.Namespace, progress: Progress
) -> list[str]:
    """Measure each number of threads for which there is time, and say for which there is none."""
    longest = 0.0
    for place, threads in enumerate(fewer):
        if progress.seconds_left() < longest:
            left_out = ", ".join(map(str, fewer[place:]))
            return [f"Left out, for --minutes {options.minutes:g} are over: threads {left_out}."]
        start = time.monotonic()
        measure_warm(beton, threads, options.batches, options.seconds, progress)
        longest = max(longest, time.monotonic() - start)
    return []


def measure_warm(
    beton: BetonFile, threads: int, batches: Sequence[int], seconds: float, progress: Progress
) -> None:
    """Keep rows of every backend and batch size with so many threads, and of their ceiling, all in turn."""
    with ExitStack() as stack:
        ceiling = _case(
            f"decode-only/threads {threads}",
            "source_decodes_per_second",
            "images/s",
            stack.enter_context(decoding(beton, threads, seconds)),
        )
        settings = [
            _opened(stack, beton, backend, threads, batch, seconds)
            for backend, batch in product(backends(), batches)
        ]
        cases = [ceiling, *(setting.case(seconds) for setting in settings)]
        values = values_in_turn(
            cases, RUNS, after_round=progress.rounds(lambda values: sum_up(cases, values))
        )
    most, *pairs = values
    progress.keep([row_of(most, name=ceiling.name, metric=ceiling.metric, unit=ceiling.unit)])
    for setting, each in zip(settings, pairs, strict=True):
        progress.keep(setting.rows(each, most))


def measure_cold(beton: BetonFile, cores: int, batch: int, progress: Progress) -> list[str]:
    """Keep rows of one epoch of each backend from the disk, `RUNS` times; returns what to say of it."""
    kept: list[float] = []
    with tempfile.TemporaryDirectory(prefix=".cold-", dir=beton.path.parent) as folder:
        copy = Path(folder) / beton.path.name  # pages of a file that is mapped elsewhere would stay
        shutil.copyfile(beton.path, copy)
        shutil.copyfile(manifest_path(beton.path), manifest_path(copy))
        cases = [
            _case(
                f"{backend}/cold/threads {cores}/batch {batch}",
                "pairs_per_second",
                "pairs/s",
                partial(_cold_epoch, opener, copy, cores, batch, kept),
            )
            for backend, opener in backends().items()
        ]
        values = values_in_turn(
            cases, RUNS, after_round=progress.rounds(lambda values: sum_up(cases, values))
        )
    progress.keep(sum_up(cases, values))
    if max(kept) > STILL_THERE:
        return [
            f"Cold: this machine kept up to {max(kept):.0%} of the file in its page cache, so these are not cold."
        ]
    return [f"Cold: the file was out of the page cache before each run (at most {max(kept):.1%} left)."]


def backends() -> dict[str, Opener]:
    """Those that this machine's devices allow."""
    return {**BACKENDS, **GPU_BACKENDS} if torch.cuda.is_available() else BACKENDS


def thread_choices(cores: int) -> list[int]:
    """Powers of two below the number of cores, and that number."""
    return [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < cores] + [cores]


def _case(name: str, metric: str, unit: str, measure: Callable[[], float]) -> Case:
    return Case(name=name, metric=metric, unit=unit, augmentation=CROP_FLIP, measure=measure)


def _name(backend: str, threads: int, batch: int) -> str:
    return f"{backend}/threads {threads}/batch {batch}"


def _row(values: Sequence[float], name: str, metric: str, unit: str) -> Row:
    return row_of(values, name=name, metric=metric, unit=unit, augmentation=CROP_FLIP)


def _opened(
    stack: ExitStack, beton: BetonFile, backend: str, threads: int, batch: int, seconds: float
) -> Setting:
    """Open a feed and see how much memory it takes while it runs alone for a while."""
    looks = (anonymous_memory, device_memory) if backend in GPU_BACKENDS else (anonymous_memory,)
    give_back_memory()
    before = [look() for look in looks]
    feed = backends()[backend](beton, threads, batch, CROP_FLIP)
    stack.callback(feed.close)
    most, end = before, time.perf_counter() + seconds
    for _ in feed.batches:
        most = [max(each, look()) for each, look in zip(most, looks, strict=True)]
        if time.perf_counter() > end:
            break
    name = _name(backend, threads, batch)
    held = zip(("peak_memory", "peak_device_memory"), before, most, strict=False)
    memory = [_row([after - first], name, metric, "MiB") for metric, first, after in held]
    return Setting(backend, threads, batch, feed, memory)


def _cold_epoch(opener: Opener, path: Path, threads: int, batch: int, kept: list[float]) -> float:
    """Pairs a second of the first epoch after the page cache was emptied of the file."""
    kept.append(drop_from_page_cache(path))
    beton = open_beton(path)
    batches = max(1, beton.num_images // batch)
    with closing(opener(beton, threads, batch, CROP_FLIP)) as feed:
        start = time.perf_counter()
        for _ in range(batches):
            next(feed.batches)
        return batches * batch / (time.perf_counter() - start)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --beton and --batches."""
    add_beton_option(parser)
    parser.add_argument(
        "--batches",
        nargs="+",
        type=whole,
        default=BATCHES,
        metavar="N",
        help="pairs of a batch, the first one for the cold runs (default: 32 128)",
    )


COMMAND = Command(
    name="loader",
    summary="our loader over threads and batch sizes, warm and cold",
    text=__doc__,
    run=run,
    seconds=0.5,
    minutes=6.0,
    add_options=add_options,
)
