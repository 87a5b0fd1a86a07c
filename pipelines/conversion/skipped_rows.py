"""Which rows of a list were left out of a beton, and why: `FILE.beton.skipped.csv`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pipelines.whole_file import partial_file, publish


def skipped_path(beton: Path) -> Path:
    """Return where the skipped rows of `beton` are written down."""
    return beton.with_name(beton.name + ".skipped.csv")


def write_skipped(beton: Path, rows: list[tuple[int, str, str]]) -> None:
    """Write (row from 1, path, reason) of each skipped row; where there are none, remove an earlier file."""
    path = skipped_path(beton)
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("row", "path", "reason"), *rows])
    with partial_file(path, overwrite=True) as file:
        file.write(text.getvalue().encode())
        publish(file, path)
