"""`loader`: how fast our loader is, over threads and batch sizes, with a warm and a cold page cache.

Beside each number of threads stands the ceiling of decoding alone: libjpeg-turbo through torchvision's
`decode_jpeg`, every source once, whole, no crop, on as many threads of the same pool. Our share of it is a row.

Without arguments it takes under 5 minutes on two cores (3:49 on two of an AMD EPYC, of which other work took one).
More batch sizes, larger ones and more --seconds take longer: beside its seconds a run waits for some five batches.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.command import Command, add_beton_option, whole
from benchmarks.feed import Feed
from benchmarks.measurement import CROP_FLIP, Case, Row, rate, row_of, values_in_turn
from benchmarks.our_feeds import open_views
from benchmarks.page_cache import drop_from_page_cache
from benchmarks.photographs import open_photographs
from benchmarks.results import Results
from benchmarks.staged_feeds import SPLIT, Staged, open_staged_views
from pipelines.beton_reader import BetonFile, open_beton
from pipelines.manifest import manifest_path
from pipelines.thread_pool import ThreadPool

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
    peak_memory: float
    """MiB that the process held for it at most, in its first run."""
    cores_used: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What its rows are called."""
        return f"{self.backend}/threads {self.threads}/batch {self.batch}"

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
            self._row([self.peak_memory], "peak_memory", "MiB"),
        ]

    def _row(self, values: Sequence[float], metric: str, unit: str) -> Row:
        return row_of(values, name=self.name, metric=metric, unit=unit, augmentation=CROP_FLIP)


def run(options: argparse.Namespace) -> Results:
    """Measure every setting in turn, then the cold page cache."""
    with open_photographs(options) as photographs:
        print(f"{len(photographs.labels)} photographs, {photographs.beton.path}", flush=True)
        rows = warm_rows(photographs.beton, options.cores, options.batches, options.seconds)
        cold, notes = cold_rows(photographs.beton, options.cores, options.batches[0])
        about = photographs.rows()
    return Results(
        title="The loader by threads and batch size",
        rows=[*rows, *cold, *about],
        drawn=("pairs_per_second", "source_decodes_per_second", "share_of_decode_ceiling"),
        notes=notes,
    )


def warm_rows(beton: BetonFile, cores: int, batches: Sequence[int], seconds: float) -> list[Row]:
    """Rows of every backend, number of threads and batch size, all in turn, and of the ceilings."""
    threads = thread_choices(cores)
    with ExitStack() as stack:
        ceilings = [
            _case(f"decode-only/threads {n}", "source_decodes_per_second", "images/s", measure)
            for n, measure in ((n, stack.enter_context(decoding(beton, n, seconds))) for n in threads)
        ]
        settings = [
            _opened(stack, beton, backend, n, batch, seconds)
            for n, backend, batch in product(threads, backends(), batches)
        ]
        cases = [*ceilings, *(setting.case(seconds) for setting in settings)]
        values = values_in_turn(cases, RUNS)
    most = dict(zip(threads, values, strict=False))
    rows = [
        row_of(most[n], name=case.name, metric=case.metric, unit=case.unit)
        for n, case in zip(threads, ceilings, strict=True)
    ]
    for setting, pairs in zip(settings, values[len(ceilings) :], strict=True):
        rows += setting.rows(pairs, most[setting.threads])
    return rows


def cold_rows(beton: BetonFile, cores: int, batch: int) -> tuple[list[Row], list[str]]:
    """One epoch of each backend from the disk, `RUNS` times, and what to say of it."""
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
        values = values_in_turn(cases, RUNS)
    rows = [
        row_of(each, name=case.name, metric=case.metric, unit=case.unit, augmentation=case.augmentation)
        for case, each in zip(cases, values, strict=True)
    ]
    if max(kept) > STILL_THERE:
        return rows, [
            f"Cold: this machine kept up to {max(kept):.0%} of the file in its page cache, so these are not cold."
        ]
    return rows, [f"Cold: the file was out of the page cache before each run (at most {max(kept):.1%} left)."]


@contextmanager
def decoding(beton: BetonFile, threads: int, seconds: float) -> Iterator[Callable[[], float]]:
    """Give a run that decodes sources for `seconds` on so many threads: images a second."""
    with ThreadPool(threads) as pool:

        def decode(start: int, stop: int) -> None:
            for i in range(start, stop):
                decode_jpeg(torch.from_numpy(np.array(beton.image_bytes(i))), ImageReadMode.RGB)

        def every_source() -> int:
            pool.map_slices(decode, beton.num_images, 4)
            return beton.num_images

        yield lambda: rate(every_source, seconds)


def backends() -> dict[str, Opener]:
    """Those that this machine's devices allow."""
    return {**BACKENDS, **GPU_BACKENDS} if torch.cuda.is_available() else BACKENDS


def thread_choices(cores: int) -> list[int]:
    """Powers of two below the number of cores, and that number."""
    return [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < cores] + [cores]


def anonymous_memory() -> float:
    """MiB that this process holds now, mapped files left out."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", status, re.MULTILINE)) / 1024


def _case(name: str, metric: str, unit: str, measure: Callable[[], float]) -> Case:
    return Case(name=name, metric=metric, unit=unit, augmentation=CROP_FLIP, measure=measure)


def _opened(
    stack: ExitStack, beton: BetonFile, backend: str, threads: int, batch: int, seconds: float
) -> Setting:
    """Open a feed and see how much memory it takes while it runs alone for a while."""
    before = anonymous_memory()
    feed = backends()[backend](beton, threads, batch, CROP_FLIP)
    stack.callback(feed.close)
    most, end = before, time.perf_counter() + seconds
    for _ in feed.batches:
        most = max(most, anonymous_memory())
        if time.perf_counter() > end:
            break
    return Setting(backend, threads, batch, feed, most - before)


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
    add_options=add_options,
)
