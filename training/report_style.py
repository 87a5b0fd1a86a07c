"""The look of every picture: one palette, one size of text, figures without pyplot's global state."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by colour-blind readers too; for runs, heads and parts of a loss."""
COLUMN_COLOURS = {"all": "#000000", "many": "#0072B2", "medium": "#009E73", "few": "#D55E00"}
"""Of the accuracies, the same in every picture."""
LINES = ("-", "--", ":", "-.")
"""Of the first seven, the next seven, and so on, where there are more than colours."""
GREY = "#8a8a8a"
DOTS_PER_INCH = 150


def new_figure(title: str, note: str, *, width: float = 7.5, height: float = 4.4) -> Figure:
    """An empty figure of width x height inches; `note` is small print under it, '' for none."""
    figure = Figure(figsize=(width, height), layout="constrained")
    # letters an inch, a little below what fits at these sizes
    figure.suptitle(textwrap.fill(title, int(10 * width)), fontsize=11, fontweight="bold")
    if note:
        note = textwrap.fill(note, int(14.5 * width))
        figure.supxlabel(note, fontsize=8, color="#555555", x=0.02, horizontalalignment="left")
    return figure


def style(axes: Axes) -> None:
    """Thin grey grid of horizontal lines, no frame above and on the right."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def draw_line(
    axes: Axes, epochs: Sequence[int], values: Sequence[float], label: str, colour: str, line: str = "-"
) -> None:
    """A value by epoch; with dots where there are too few epochs for a line to show."""
    marker = "o" if len(epochs) <= 10 else ""
    axes.plot(epochs, values, line, label=label, color=colour, linewidth=1.5, marker=marker, markersize=4)


def epoch_axis(axes: Axes) -> None:
    """Name the axis of epochs and keep its ticks whole."""
    axes.set_xlabel("epoch (the first is 0)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend_below(axes: Axes, columns: int) -> None:
    """A legend under the axes, where no line can hide it."""
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        ncols=columns,
        fontsize=9,
        frameon=False,
        handlelength=1.3,
        columnspacing=1.2,
    )


def fitted_names(names: Sequence[str], width: float) -> tuple[list[str], int, float]:
    """What a legend of `names` needs under a figure of `width` inches.

    Returns the names, broken where one is longer than the figure is wide, in how many columns they fit (2 at most), and
    by how many inches the figure must grow for what is more than two lines.
    """
    letters = int(11.5 * width)  # a line of the legend's size, a little below what fits
    broken = [textwrap.fill(name, letters - 6) for name in names]
    columns = 2 if 2 * (max(map(len, names)) + 6) <= letters else 1
    lines = sum(name.count("\n") + 1 for name in broken) / columns
    return broken, columns, 0.2 * max(0.0, lines - 2)


def colour(position: int) -> str:
    """The palette, again from its start where it ends."""
    return PALETTE[position % len(PALETTE)]


def line_style(position: int) -> str:
    """Tells apart what has the same colour."""
    return LINES[position // len(PALETTE) % len(LINES)]


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all, and return its path."""
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=DOTS_PER_INCH, format="png")
    partial.replace(path)
    return path
