"""The converter's subcommands for files that are there: `verify` and `info`."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from pipelines.beton.format import JPEG_MODE
from pipelines.beton.manifest import SHOT_RULE, Shots
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.beton.verification import verify_beton
from pipelines.user_error import UserError
from tools.convert_options import Commands, add_source, positive

BARS = 20
"""Lines of the picture of a class distribution."""
BAR_WIDTH = 48
"""Letters of its longest bar."""
NAMED_FAULTS = 20
"""Faults that are printed one by one."""


def add_verify(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `verify`."""
    command = add_source(
        commands,
        "verify",
        summary="check every byte of a .beton and its manifest, and decode a sample",
        text="Check every byte of a .beton and of its manifest, decode a sample of its images, and name what is bad.",
        example="train.beton --decode all",
        convert=_verify,
    )
    add = command.add_argument
    add("beton", type=Path, metavar="FILE", help="the .beton; its manifest FILE.json lies beside it")
    add(
        "--decode",
        choices=("sample", "all"),
        default="sample",
        help="how many images to decode (default: sample)",
    )
    add("--workers", type=positive, metavar="N", help="threads (default: the CPUs this process may use)")


def add_info(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `info`."""
    command = add_source(
        commands,
        "info",
        summary="say what is in a .beton",
        text="Say what is in a .beton: images, classes, where from, how made, and a picture of its distribution.",
        example="train.beton",
        convert=_info,
    )
    command.add_argument("beton", type=Path, metavar="FILE", help="the .beton")


def _verify(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    done = verify_beton(
        arguments.beton,
        decode_all=arguments.decode == "all",
        workers=arguments.workers or len(os.sched_getaffinity(0)),
    )
    for fault in done.faults[:NAMED_FAULTS]:
        print(fault)
    if done.faults:
        raise UserError(
            f"{arguments.beton}: {len(done.faults):,} faults; copy the file and its manifest again, or convert again "
            "with --overwrite"
        )
    print(
        f"{arguments.beton}: every one of {done.num_bytes:,} bytes is as it was written; {done.num_decoded:,} images "
        f"decoded; {time.perf_counter() - start:.1f} s"
    )


def _info(arguments: argparse.Namespace) -> None:
    beton = open_beton(arguments.beton)
    for line in [*_facts(beton), "", *distribution(beton.counts)]:
        print(line)


def _facts(beton: BetonFile) -> list[str]:
    sizes, shots = beton.sizes, Shots.of(beton.counts)
    sides = np.sort(np.stack([beton.heights, beton.widths]), axis=0)
    jpegs = int(np.count_nonzero(beton.modes == JPEG_MODE))
    facts = [
        f"{beton.path}: {len(beton.content):,} bytes",
        f"images: {beton.num_images:,} ({jpegs:,} JPEG, {beton.num_images - jpegs:,} raw)",
        f"bytes an image: {sizes.min():,} to {sizes.max():,}, mean {sizes.mean():,.0f}",
        f"shorter side: {sides[0].min()} to {sides[0].max()}, mean {sides[0].mean():.0f} pixels; "
        f"longer: {sides[1].min()} to {sides[1].max()}, mean {sides[1].mean():.0f}",
        f"classes: {beton.num_classes:,}, of {beton.counts.min():,} to {beton.counts.max():,} images",
        f"many / medium / few: {shots.many} / {shots.medium} / {shots.few} ({SHOT_RULE})",
    ]
    if beton.manifest is not None:
        manifest = beton.manifest
        facts += [
            f"source: {manifest.source.kind}, {manifest.source.name}, SHA-256 {manifest.source.sha256}",
            f"settings: {', '.join(f'{name} {value}' for name, value in manifest.settings.items())}",
            f"skipped rows: {manifest.skipped:,}; written by fasttail {manifest.tool_version}",
        ]
    return facts


def distribution(counts: np.ndarray) -> list[str]:
    """Return lines that draw the (C,) numbers of images, largest class first, at most BARS bars.

    A bar stands for as many classes as come next, and its length for their mean.
    """
    order = np.sort(counts)[::-1]
    groups = np.array_split(order, min(BARS, len(order)))
    lines, first = ["images of a class, classes from the largest to the smallest:"], 1
    for group in groups:
        last = first + len(group) - 1
        bar = "#" * max(int(group.mean() > 0), round(BAR_WIDTH * group.mean() / max(1, order[0])))
        ranks = f"{first}" if last == first else f"{first}-{last}"
        lines.append(f"{ranks:>13} |{bar:<{BAR_WIDTH}} {group.mean():,.1f}".rstrip())
        first = last + 1
    return lines
