"""`scaling`: what grows with the number of images: opening, samplers, draws of a step, memory of a process.

Each number of images, from 10,000 up tenfold to --largest, is a process of its own that opens a file whose tables are
real and whose images are a hole. --images is the local batch in source images, two a pair. Nothing is decoded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command import Command, whole
from benchmarks.measurement import CROP_FLIP, OFFICIAL, Row, row_of
from benchmarks.results import Results
from benchmarks.synthetic_beton import write_synthetic_beton

ROOT = Path(__file__).resolve().parents[1]
SMALLEST = 10_000
STARTS = 3
"""Times that the imports of a training are timed."""
UNITS = {
    "open_seconds": "s",
    "open_memory": "MiB",
    "build_seconds": "s",
    "build_memory": "MiB",
}
IMPORTS = """
import time
start = time.perf_counter()
import training.train
from benchmarks.held_memory import anonymous_memory
print(time.perf_counter() - start, anonymous_memory())
"""


def run(options: argparse.Namespace) -> Results:
    """Measure size by size."""
    pairs = max(1, options.images // 2)
    rows = start_rows()
    with tempfile.TemporaryDirectory(prefix="fasttail-scaling-", dir=options.folder) as folder:
        path = Path(folder) / "synthetic.beton"
        count = SMALLEST
        while count <= options.largest:
            print(f"{count:,} images", flush=True)
            write_synthetic_beton(path, count)
            rows += rows_of(count, measured(path, pairs, options.seconds))
            count *= 10
    return Results(
        title="What grows with the number of images",
        rows=rows,
        drawn=("draws_of_a_step", "open_seconds", "open_memory"),
        notes=[f"Draws: of {pairs} pairs, both streams, two views of each image, one thread."],
    )


def start_rows() -> list[Row]:
    """Time and memory of the imports of a training, which do not depend on the data."""
    values = []
    for _ in range(STARTS):
        begin = time.perf_counter()
        output = _python("-c", IMPORTS)
        values.append((time.perf_counter() - begin, float(output.split()[1])))
    name = "start of a process"
    return [
        row_of([each[0] for each in values], name=name, metric="start_seconds", unit="s"),
        row_of([each[1] for each in values], name=name, metric="start_memory", unit="MiB"),
    ]


def measured(path: Path, pairs: int, seconds: float) -> dict[str, Any]:
    """What scaling_process.py says of one file."""
    return json.loads(_python("-m", "benchmarks.scaling_process", str(path), str(pairs), str(seconds)))


def rows_of(count: int, found: dict[str, Any]) -> list[Row]:
    """The rows of one number of images."""
    name = f"{count:,} images"
    rows = [row_of([found[metric]], name=name, metric=metric, unit=unit) for metric, unit in UNITS.items()]
    for augmentation, suffix in ((CROP_FLIP, ""), (OFFICIAL, ", official colours")):
        rows.append(
            row_of(
                found[augmentation],
                name=name + suffix,
                metric="draws_of_a_step",
                unit="ms",
                augmentation="none" if not suffix else augmentation,
            )
        )
    return rows


def _python(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--largest", type=whole, default=10**7, metavar="N", help="most images (default: 10,000,000)"
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the files go, 112 bytes an image (default: $TMPDIR)"
    )


COMMAND = Command(
    name="scaling",
    summary="opening, draws and memory from 10,000 images up",
    text=__doc__,
    run=run,
    seconds=1.0,
    add_options=_add_options,
)
