"""A whole set through the converter's command line, as a user runs it: conversion, then verification.

The rows are those of Places-LT's training list where that file is at hand, with small JPEGs at its paths.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measurement import Row, row_of
from benchmarks.peak_memory import ROOT, Watched, run_watched
from pipelines.sources.image_list import read_list

PLACES_LT = ROOT.parent / "shared" / "data" / "Places_LT_train.txt"
ROWS, CLASSES = 62_500, 365
"""Of Places-LT's training list, and of the one that stands in for it."""
LONGER_SIDE = 96
"""Pixels of the small JPEGs."""
RUNS = 5


@dataclass(frozen=True, kw_only=True)
class WholeSet:
    """A list and image files at its paths."""

    listed: Path
    folder: Path
    num_rows: int
    num_bytes: int
    """Of all the files."""


def make_whole_set(photographs: tuple[Path, ...], listed: Path | None, folder: Path) -> WholeSet:
    """Make the small JPEGs of photographs, in turn; without a list of Places-LT or the user's, a list too."""
    if listed is None:
        listed = PLACES_LT if PLACES_LT.is_file() else _make_list(folder / "made.txt")
    contents = [_small(path) for path in photographs]
    images = read_list(listed, allow_empty_classes=True)
    total = 0
    made: set[Path] = set()
    for i in range(len(images)):
        path, content = folder / "images" / images.path(i), contents[i % len(contents)]
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(content)
        total += len(content)
    return WholeSet(listed=listed, folder=folder, num_rows=len(images), num_bytes=total)


def whole_rows(whole: WholeSet, cores: int) -> list[Row]:
    """Measure the set on so many threads."""
    out = str(whole.folder / "whole.beton")
    paths = ["--images", str(whole.folder / "images"), "--list", str(whole.listed), "--out", out]
    steps = {
        "convert": ["list", *paths, "--overwrite", "--allow-empty-classes"],
        "verify": ["verify", out],
    }
    done: dict[str, list[Watched]] = {step: [] for step in steps}
    for _ in range(RUNS):
        for step, arguments in steps.items():
            command = ["-m", "tools.convert_datasets", *arguments, "--workers", str(cores)]
            done[step].append(run_watched(command))
    name, n = f"ours/whole set of {whole.num_rows:,} rows", whole.num_rows
    seconds = [a.seconds + b.seconds for a, b in zip(done["convert"], done["verify"], strict=True)]
    megabytes = [whole.num_bytes / 1e6 / s for s in seconds]
    rows = [
        row_of(seconds, name=name, metric="seconds", unit="s"),
        row_of([n / s for s in seconds], name=name, metric="source_images_per_second", unit="images/s"),
        row_of(megabytes, name=name, metric="source_megabytes_per_second", unit="MB/s"),
    ]
    for step, runs in done.items():
        part = f"{name}/{step}"
        rows.append(row_of([run.seconds for run in runs], name=part, metric="seconds", unit="s"))
        rows.append(row_of([run.peak_memory for run in runs], name=part, metric="peak_memory", unit="MiB"))
    return rows


def what(whole: WholeSet) -> str:
    """Say in a line what was converted."""
    made = " (made, for Places-LT's is not at hand)" if whole.listed.parent == whole.folder else ""
    return (
        f"Whole set: {whole.num_rows:,} rows of {whole.listed.name}{made} with JPEGs of "
        f"{whole.num_bytes / whole.num_rows / 1000:.1f} kB; the command line whole, conversion and verification."
    )


def _make_list(path: Path) -> Path:
    labels = np.arange(ROWS) * CLASSES // ROWS
    path.write_text(
        "".join(f"class{label:03d}/{i:08d}.jpg {label}\n" for i, label in enumerate(labels.tolist()))
    )
    return path


def _small(path: Path) -> bytes:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((LONGER_SIDE, LONGER_SIDE))
        image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
