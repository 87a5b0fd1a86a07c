"""What a grid found: a row a cell, mean ± standard deviation over its seeds, and differences from the first cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.whole_file import partial_file, publish
from tools.compare_runs import align
from tools.grid_runs import Cell, GridRun
from tools.seed_statistics import mean_text, paired_interval
from training.run_record import COLUMNS, read_run

Row = dict[str, Any]
FIGURES = (*COLUMNS, "top5", "macro", "worst")
"""Keys of a run's accuracy that the table shows."""


def rows_of(runs: Sequence[GridRun]) -> list[Row]:
    """What is varied, seed and figures of the last epoch (fractions, or None) of every finished run."""
    rows = []
    for run in runs:
        if run.is_finished:
            accuracy = read_run(run.folder.path).summary["accuracy"]
            assert accuracy is not None, "plan_runs refuses runs without data.test"
            figures = {name: accuracy.get(name) for name in FIGURES}
            rows.append({"cell": dict(run.cell), "seed": run.seed, "folder": str(run.folder.path), **figures})
    return rows


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write the JSON file, whole or not at all."""
    with partial_file(path, overwrite=True) as file:
        file.write((json.dumps({"rows": list(rows)}, indent=1) + "\n").encode())
        publish(file, path)


def grid_table(cells: Sequence[Cell], rows: Sequence[Row]) -> str:
    """The table, and how the other cells differ from the first where both have two seeds or more in common."""
    by_cell = [[row for row in rows if row["cell"] == dict(cell)] for cell in cells]
    names = [name for name, _ in cells[0]] or ["run"]
    lines = [[*names, "seeds", *(name.capitalize() for name in FIGURES)]]
    for cell, found in zip(cells, by_cell, strict=True):
        values = [value for _, value in cell] or ["all"]
        figures = [mean_text([row[name] for row in found]) for name in FIGURES]
        lines.append([*values, str(len(found)), *figures])
    title = "In percent on data.test, last epoch, mean ± standard deviation over the seeds"
    return "\n".join([title, *align(lines), *_differences(cells, by_cell)])


def _differences(cells: Sequence[Cell], by_cell: Sequence[Sequence[Row]]) -> list[str]:
    first = {row["seed"]: row["all"] for row in by_cell[0]}
    lines = []
    for cell, found in zip(cells[1:], by_cell[1:], strict=True):
        ours = {row["seed"]: row["all"] for row in found}
        seeds = sorted(first.keys() & ours.keys())
        if len(seeds) >= 2:
            interval = paired_interval([ours[seed] for seed in seeds], [first[seed] for seed in seeds])
            lines.append(
                f"{_text(cell)} - {_text(cells[0])}, All: {100 * interval.mean:+.1f} points, paired 95 % interval "
                f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f} (Student's t, {len(seeds)} seeds)"
            )
    return lines


def _text(cell: Cell) -> str:
    return ", ".join(f"{name}={value}" for name, value in cell)
