"""Look at every file of a list before anything is written: a mistake is told in seconds, not after an hour.

Of each file this reads its size and, unless bad images are to be left out anyway, the header and the last two bytes;
a JPEG that does not end with its end marker is walked. What only decoding can tell is told when its turn comes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.conversion.image_bytes import header_fault
from pipelines.in_turn import Threads, in_turn
from pipelines.sources.image_list import ImageList
from pipelines.sources.row_order import RowOrder
from pipelines.user_error import UserError

ROWS = 512
"""Rows a task."""


@dataclass(frozen=True, kw_only=True)
class FoundFiles:
    """What the scan found."""

    largest: int
    """Bytes of the largest file."""
    total: int
    """Bytes of all."""


def scan_files(
    images: ImageList, prefix: str, order: RowOrder, first: int, *, stop: bool, pool: Threads
) -> FoundFiles:
    """Look at the files of the places from `first` on.

    Raises:
        UserError: `stop` is set, and files are missing or bad; the first in the order of the list is named.
    """

    def look(start: int, end: int) -> tuple[list[tuple[int, str]], int, int]:
        bad, largest, total = [], 0, 0
        for row in order.rows(np.arange(start, end)).tolist():
            path = prefix + images.path(row)
            size = _file_size(path)
            if size is None:
                bad.append((row, _missing(path)))
            else:
                largest, total = max(largest, size), total + size
                if stop and (fault := header_fault(path, size)):
                    bad.append((row, fault))
        return bad, largest, total

    bad, largest, total = [], 0, 0
    for found, size, sizes in in_turn(pool, look, first, len(images), ROWS):
        bad += found if stop else []
        largest, total = max(largest, size), total + sizes
    if bad:
        row, fault = min(bad)
        others = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
        raise UserError(f"{images.name}:{row + 1}{others}: {fault}")
    return FoundFiles(largest=largest, total=total)


def path_prefix(root: Path) -> str:
    """Return what to put before a path of the list.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: not a folder; give --images the folder that the paths of the list start from"
        )
    return "" if str(root) == "." else f"{str(root).rstrip('/')}/"


def _missing(path: str) -> str:
    return f"{path} not found; give --images the folder that the paths start from, or take the rows out of the list"


def _file_size(path: str) -> int | None:
    """Return the bytes of a regular file, None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  (ten million Path objects are seconds)
    except (OSError, ValueError):  # ValueError: a path that no file system takes
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
