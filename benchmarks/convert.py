"""`convert`: how fast files become a beton, ours beside FFCV's own DatasetWriter; what sizes cost; a whole set.

Both converters get the same files, the same limits of size and the same number of workers (threads of ours,
processes of FFCV's), and take turns. Sources are in the page cache, and both write to memory (/dev/shm) where there is
room, for the rate of the disk is not what is compared; a line says so. The whole set is converted on the disk.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.command import Command, add_beton_option
from benchmarks.converters import CONVERTERS, Task, command
from benchmarks.loader import thread_choices
from benchmarks.measurement import NONE, Case, Row, rate, row_of, values_in_turn
from benchmarks.peak_memory import run_watched
from benchmarks.photographs import Photographs, open_photographs
from benchmarks.results import Results
from benchmarks.size_table import size_rows
from benchmarks.whole_conversion import make_whole_set, what, whole_rows

RUNS = 5
MEMORY = Path("/dev/shm")
SIZE = 256
"""Pixels of the longer side of re-encoded images."""
LARGE_SOURCES = 24
"""For the table of sizes, at most."""


@dataclass(frozen=True)
class Kind:
    """What a converter is asked for."""

    converter: str
    asked: str
    max_size: int | None = None
    check: str = "codes"
    goal: tuple[str, float] | None = None
    """The kind that it is to be so many times as fast as."""

    def task(self, photographs: Photographs, out: Path, workers: int) -> Task:
        """The same files for every kind."""
        return Task(
            folder=str(photographs.files[0].parent),
            files=[path.name for path in photographs.files],
            out=str(out),
            workers=workers,
            max_size=self.max_size,
            check=self.check,
        )

    def name(self, workers: int) -> str:
        """What its rows are called."""
        return f"{self.converter}/{self.asked}/workers {workers}"


KINDS = (
    Kind("ours", "byte for byte", goal=("any size", 5.0)),
    Kind("ours", "byte for byte, --check markers", check="markers", goal=("any size", 5.0)),
    Kind("ours", "byte for byte, --check decode", check="decode"),
    Kind("ours", f"{SIZE} px", SIZE, goal=(f"{SIZE} px", 1.2)),
    Kind("ffcv", "any size"),
    Kind("ffcv", f"{SIZE} px", SIZE),
)


def run(options: argparse.Namespace) -> Results:
    """Measure rates, memory, sizes and the whole set, in this order."""
    with (
        open_photographs(options) as photographs,
        tempfile.TemporaryDirectory(prefix="fasttail-convert-") as name,
        tempfile.TemporaryDirectory(
            prefix="fasttail-convert-", dir=_fast_folder(photographs, Path(name))
        ) as fast,
    ):
        folder = Path(name)
        print(f"{len(photographs.files)} photographs, {photographs.files[0].parent}", flush=True)
        rates, notes = rate_rows(photographs, options.cores, options.seconds, Path(fast))
        notes.append(f"The rates are those of writing to {Path(fast).parent}.")
        memory = memory_rows(photographs, options.cores, folder)
        print("sizes, and a whole set", flush=True)
        sizes = size_rows(folder, min(LARGE_SOURCES, options.images))
        whole = make_whole_set(photographs.files, options.list, folder)
        rows = [*rates, *memory, *sizes, *whole_rows(whole, options.cores), *photographs.rows()]
        notes.append(what(whole))
    return Results(
        title="From image files to a beton",
        rows=rows,
        drawn=("source_images_per_second", "times_ffcv", "peak_memory"),
        notes=notes,
    )


def _fast_folder(photographs: Photographs, otherwise: Path) -> Path:
    """Memory, if it takes the outputs of both converters with room to spare."""
    wanted = 4 * int(photographs.beton.sizes.sum())
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > wanted else otherwise


def rate_rows(
    photographs: Photographs, cores: int, seconds: float, folder: Path
) -> tuple[list[Row], list[str]]:
    """Rows of every kind and number of workers, all in turn; and whether the goals are reached."""
    settings = [(kind, workers) for workers in thread_choices(cores) for kind in KINDS]
    cases = [
        Case(
            name=kind.name(workers),
            metric="source_images_per_second",
            unit="images/s",
            augmentation=NONE,
            measure=partial(_images_per_second, kind, photographs, workers, folder, seconds),
        )
        for kind, workers in settings
    ]
    values = dict(zip([case.name for case in cases], values_in_turn(cases, RUNS), strict=True))
    megabytes = float(photographs.beton.sizes.mean()) / 1e6
    rows, notes = [], []
    for kind, workers in settings:
        own = values[kind.name(workers)]
        rows.append(_row(kind, workers, own, "source_images_per_second", "images/s"))
        in_bytes = [megabytes * value for value in own]
        rows.append(_row(kind, workers, in_bytes, "source_megabytes_per_second", "MB/s"))
        if kind.goal:
            other, goal = kind.goal
            theirs = values[Kind("ffcv", other).name(workers)]
            ratios = [a / b for a, b in zip(own, theirs, strict=True)]
            rows.append(_row(kind, workers, ratios, "times_ffcv", "x"))
            reached = "reached" if rows[-1].median >= goal else "missed"
            notes.append(f"{rows[-1].name}: {rows[-1].median:.2f} times FFCV's; goal {goal:g}: {reached}")
    return rows, notes


def memory_rows(photographs: Photographs, cores: int, folder: Path) -> list[Row]:
    """Peak memory of each kind, all its processes together, in one run of its own."""
    rows = []
    for kind in KINDS:
        task = kind.task(photographs, folder / "memory.beton", cores)
        watched = run_watched(command(kind.converter, task, folder))
        rows.append(_row(kind, cores, [watched.peak_memory], "peak_memory", "MiB"))
    return rows


def _images_per_second(
    kind: Kind, photographs: Photographs, workers: int, folder: Path, seconds: float
) -> float:
    task = kind.task(photographs, folder / f"{kind.converter}.beton", workers)

    def convert() -> int:
        CONVERTERS[kind.converter](task)
        return len(task.files)

    return rate(convert, seconds)


def _row(kind: Kind, workers: int, values: Sequence[float], metric: str, unit: str) -> Row:
    return row_of(values, name=kind.name(workers), metric=metric, unit=unit)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_beton_option(parser)
    parser.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="list of the whole set, rows `path label` (default: Places-LT's, or one made of its size)",
    )


COMMAND = Command(
    name="convert",
    summary="image files to a beton: ours and FFCV's writer, sizes, and a whole set",
    text=__doc__,
    run=run,
    seconds=2.0,
    images=2048,
    add_options=_add_options,
)
