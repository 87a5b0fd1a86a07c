"""Write a tiny JPEG file at every path of a list: python -m benchmarks.tiny_pictures --list FILE --images DIR.

Each is a crop of one of scikit-learn's two sample photos, 32 to 48 pixels a side, about a kilobyte, hardly two
alike. It has a tint of its class: a run that took labels for other images than theirs would learn nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIDES = (32, 49)
"""Pixels, from and below; height and width are drawn apart."""
REDUCE = 4
"""Times that a photo is made smaller before it is cropped, so that a crop shows something."""
QUALITY = 75
SPAN = 2000
"""Pictures that a process makes at a time."""

Row = tuple[str, int]
"""Path and label."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", type=Path, required=True, metavar="FILE", help="rows `path label`")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="where the paths start")
    options = parser.parse_args()
    size = make_pictures(options.list, options.images, len(os.sched_getaffinity(0)))
    print(f"{options.images}: pictures of {options.list.name}, {size:,} bytes")


def make_pictures(listed: Path, root: Path, workers: int) -> int:
    """Write the file of each row under `root` in so many processes; returns the bytes of all."""
    split = (row.rsplit(" ", 1) for row in listed.read_text(encoding="utf-8").splitlines())
    rows = [(path, int(label)) for path, label in split]
    for folder in {(root / path).parent for path, _ in rows}:
        folder.mkdir(parents=True, exist_ok=True)
    spans = [rows[start : start + SPAN] for start in range(0, len(rows), SPAN)]
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_quietly) as pool:
        try:
            return sum(pool.map(_write_span, spans, range(len(spans)), [root] * len(spans)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_quietly() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_span(rows: list[Row], number: int, root: Path) -> int:
    rng = np.random.default_rng([SPAN, number])
    total = 0
    for path, label in rows:
        photo = _photos()[rng.integers(2)]
        height, width = rng.integers(*SIDES, size=2)
        y0, x0 = rng.integers(photo.shape[0] - height), rng.integers(photo.shape[1] - width)
        mixed = photo[y0 : y0 + height, x0 : x0 + width] // 2 + _tint(label)
        with (root / path).open("wb") as file:
            Image.fromarray(mixed).save(file, "JPEG", quality=QUALITY)
            total += file.tell()
    return total


@cache
def _photos() -> list[np.ndarray]:
    """(H, W, 3) uint8 each."""
    return [np.asarray(Image.fromarray(photo).reduce(REDUCE)) for photo in load_sample_images().images]


@cache
def _tint(label: int) -> np.ndarray:
    """(3,) uint8 in [0, 127]: neighbours in the order of the labels have distant colours."""
    return np.random.default_rng([SPAN, SPAN, label]).integers(0, 128, 3, dtype=np.uint8)


if __name__ == "__main__":
    main()
