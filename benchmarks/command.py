"""What a subcommand of the benchmark is, and the options that all of them have.

A benchmark is a module of this package with a `COMMAND`; tools/benchmark.py lists them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Results


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand of tools/benchmark.py."""

    name: str
    summary: str
    """A line for the list of subcommands."""
    text: str
    """What its help says."""
    run: Callable[[argparse.Namespace], Results]
    """Measure. Its options hold `cores`, `images`, `seconds`, `progress` (a `Progress`) and what `add_options`
    added; the process is kept to `cores` already."""
    seconds: float = 2.0
    """Default of --seconds: of one timed run."""
    images: int = 512
    """Default of --images."""
    minutes: float | None = None
    """Default of --minutes, of the whole benchmark; None: it takes what it takes."""
    add_options: Callable[[argparse.ArgumentParser], None] | None = None
    """Adds options of its own."""


def add_shared_options(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add what bounds a benchmark and where its results go."""
    add = parser.add_argument
    add("--cores", type=whole, metavar="N", help="use this many cores (default: all this process may use)")
    add(
        "--images",
        type=whole,
        default=command.images,
        metavar="N",
        help=f"source images (default: {command.images})",
    )
    add(
        "--seconds",
        type=seconds,
        default=command.seconds,
        metavar="S",
        help=f"length of one timed run (default: {command.seconds:g})",
    )
    if command.minutes is not None:
        add(
            "--minutes",
            type=seconds,
            default=command.minutes,
            metavar="M",
            help=f"begin nothing that would take longer; what is left out is named (default: {command.minutes:g})",
        )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the rows here too, as they come; an older file is replaced",
    )
    add(
        "--picture",
        type=Path,
        default=Path(f"runs/benchmark_{command.name}.png"),
        metavar="FILE",
        help="the picture (default: %(default)s)",
    )


def add_beton_option(parser: argparse.ArgumentParser) -> None:
    """Add --beton, for benchmarks that read photographs."""
    parser.add_argument(
        "--beton",
        type=Path,
        metavar="FILE",
        help="photographs of your own, as tools/convert_datasets.py writes them (default: made for the benchmark)",
    )


def whole(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def seconds(text: str) -> float:
    """Parse a time above 0, of seconds or minutes."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0")
    return value
