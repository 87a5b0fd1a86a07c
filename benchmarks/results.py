"""What a benchmark hands over: rows, as a table on the terminal, a picture, and a JSON file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks.machine import Facts
from benchmarks.measurement import Row, check_rows
from pipelines.user_error import UserError
from pipelines.whole_file import partial_file, publish
from training.report_style import GREY, colour, new_figure, save


@dataclass(frozen=True, kw_only=True)
class Results:
    """What one subcommand measured."""

    title: str
    """Of the picture."""
    rows: Sequence[Row]
    drawn: Sequence[str]
    """The metrics that the picture shows, a panel for each of them and each augmentation."""
    notes: Sequence[str] = field(default=())
    """Lines under the table: goals reached or not, what differs, what could not be measured."""

    def __post_init__(self) -> None:
        check_rows(self.rows)


def table(rows: Sequence[Row]) -> str:
    """Lay out the rows as text; a row that follows one of the same metric stands right below it."""
    header = ("name", "metric", "median", "min", "max", "runs", "unit", "augmentation")
    lines = [
        (
            row.name,
            row.metric,
            *(_number(value) for value in (row.median, row.min, row.max)),
            str(row.runs),
            row.unit,
            row.augmentation,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    right = range(2, 6)
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [header, *lines]
    )


def write_json(
    path: Path, rows: Sequence[Row], machine: Facts, versions: dict[str, str], commit: str
) -> None:
    """Write the file that other programs read; an older one is replaced."""
    content = {
        "rows": [dataclasses.asdict(row) for row in rows],
        "machine": machine,
        "versions": versions,
        "commit": commit,
    }
    with partial_file(path, overwrite=True) as file:
        file.write((json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
        publish(file, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read such a file; its rows as `Row`.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            "rows": [Row(**row) for row in content["rows"]],
            **{key: content[key] for key in ("machine", "versions", "commit")},
        }
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); measure again with --json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not the JSON of a benchmark ({error!r}); measure again with --json"
        ) from None


def draw(results: Results, machine: Facts, path: Path) -> Path:
    """Draw bars of the medians, with lines from the lowest to the highest value; returns `path`."""
    drawn = [row for metric in results.drawn for row in results.rows if row.metric == metric]
    panels = [list(rows) for _, rows in groupby(drawn, key=lambda row: (row.metric, row.augmentation))]
    heights = [len(rows) + 1.2 for rows in panels]
    note = f"{machine_line(machine)}. Bars: median; lines: lowest to highest of the runs."
    figure = new_figure(results.title, note, width=8, height=1.3 + 0.3 * sum(heights))
    axes: NDArray[Any] = figure.subplots(
        max(1, len(panels)), 1, squeeze=False, gridspec_kw={"height_ratios": heights or [1]}
    )
    for each, rows in zip(axes[:, 0], panels, strict=False):
        _draw_panel(each, rows)
    return save(figure, path)


def machine_line(machine: Facts) -> str:
    """Name the machine in one line."""
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return f"{machine['cores']} cores of {machine['cpu']}{gpu}, load {machine['load_average']} at the start"


def _draw_panel(axes: Axes, rows: Sequence[Row]) -> None:
    names = [row.name for row in rows]
    medians = [row.median for row in rows]
    spread = [
        [row.median - row.min for row in rows],
        [row.max - row.median for row in rows],
    ]
    colours = [colour(0) if name.startswith("ours") else GREY for name in names]
    places = range(len(rows))
    axes.barh(places, medians, xerr=spread, color=colours, error_kw={"elinewidth": 1, "capsize": 3})
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    for place, row in zip(places, rows, strict=True):
        axes.text(row.max, place, f"  {_number(row.median)}", va="center", fontsize=8)
    axes.set_xlim(0, 1.15 * max(row.max for row in rows) or 1)
    axes.set_title(_panel_title(rows[0]), fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _panel_title(row: Row) -> str:
    words = row.metric.replace("_", " ")
    unit = "" if row.unit in row.metric.replace("_per_", "/") else f", {row.unit}"
    augmented = "" if row.augmentation == "none" else f" ({row.augmentation})"
    return f"{words}{unit}{augmented}"


def _number(value: float) -> str:
    """Three figures or more: 0.0123, 12.3, 1,234."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
