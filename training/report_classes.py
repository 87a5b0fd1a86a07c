"""Pictures over class frequency: accuracy of each class, norm of each classifier row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.accuracy import GROUPS
from training.checkpoint import load_checkpoint
from training.report_curves import title
from training.report_style import (
    COLUMN_COLOURS,
    colour,
    legend_below,
    line_style,
    new_figure,
    save,
    style,
)
from training.run_record import RunRecord

Values = NDArray[np.float64]
FEW_CLASSES = 60
"""Up to here each class is a visible dot; beyond, a line of means over neighbouring classes carries the picture."""
BINS = 40
"""Means in that line."""
DOTS, LINES = 2.0, 3.0
"""What lies on what: no series' dots hide another's line."""


def draw_class_accuracy(run: RunRecord, path: Path) -> Path | None:
    """Accuracy of each class over class frequency, last epoch on data.test; None without data.test."""
    if run.class_accuracy is None:
        return None
    accuracy = run.summary["accuracy"]
    note = f"Last epoch on data.test, {run.summary['inference_head']} head. {run.summary['shot_rule']}."
    figure = new_figure(title(run, f"Accuracy by class, all {100 * accuracy['all']:.1f} %"), note)
    axes = frequency_axes(figure, run, {name: accuracy[name] for name in GROUPS})
    draw_over_classes(axes, run.class_counts, {"accuracy": 100 * run.class_accuracy})
    accuracy_by_class_axis(axes)
    return save(figure, path)


def draw_classifier_norm(run: RunRecord, path: Path) -> Path:
    """Norm of each class's row in each trained head, last epoch: a biased head has longer rows for many."""
    weights = load_checkpoint(run.folder.last).model
    norms = {
        f"{head} head": weights[f"{head}_head.weight"].float().norm(dim=1).double().numpy()
        for head in run.trained_heads
    }
    figure = new_figure(title(run, "Classifier norm"), f"Last epoch. {run.summary['shot_rule']}.")
    axes = frequency_axes(figure, run, {})
    draw_over_classes(axes, run.class_counts, norms)
    axes.set_ylim(0, 1.1 * max(values.max() for values in norms.values()))
    axes.set_ylabel("norm of the classifier's row")
    legend_below(axes, columns=2)
    return save(figure, path)


def frequency_axes(figure: Figure, run: RunRecord, means: Mapping[str, float | None]) -> Axes:
    """Axes over the classes of `run`, most frequent first, with its training images as a grey silhouette.

    The silhouette has a logarithmic axis of its own on the right; many, medium and few are shaded, each named
    above with its accuracy where `means` has it.
    """
    axes = figure.subplots()
    counts_axes = axes.twinx()
    axes.set_zorder(counts_axes.get_zorder() + 1)  # values before the silhouette
    axes.patch.set_visible(False)
    order = most_frequent_first(run.class_counts)
    counts, groups = run.class_counts[order], run.class_groups[order]
    edges = np.arange(len(counts) + 1) - 0.5
    counts_axes.stairs(np.maximum(counts, 0.7), edges, baseline=0.7, fill=True, color="#00000022")
    counts_axes.set_yscale("log")
    counts_axes.yaxis.set_major_formatter("{x:,.0f}")
    counts_axes.minorticks_off()
    counts_axes.set_ylim(0.7, 1.3 * counts.max())
    counts_axes.set_ylabel("training images of the class (grey, log scale)", fontsize=9, color="#666666")
    counts_axes.tick_params(labelsize=9, colors="#666666")
    counts_axes.spines[["top"]].set_visible(False)
    for code, name in enumerate(GROUPS):
        places = np.flatnonzero(groups == code)
        if len(places):
            first, end = places[0] - 0.5, places[-1] + 0.5
            counts_axes.axvspan(first, end, color=COLUMN_COLOURS[name], alpha=0.09, linewidth=0)
            mean = means.get(name)
            axes.annotate(
                name if mean is None else f"{name}\n{100 * mean:.1f} %",
                ((first + end) / 2, 1.01),
                xycoords=("data", "axes fraction"),
                horizontalalignment="center",
                verticalalignment="bottom",
                fontsize=9,
                color=COLUMN_COLOURS[name],
            )
    _class_axis(axes, order)
    style(axes)
    return axes


def draw_over_classes(axes: Axes, counts: NDArray[np.int64], series: Mapping[str, Values]) -> None:
    """Draw (C,) values of each class, NaN where there is none, under the names that `series` gives them."""
    order = most_frequent_first(counts)
    for position, (label, values) in enumerate(series.items()):
        x, y = np.arange(len(order)), values[order]
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        if len(order) <= FEW_CLASSES:
            marks = f"o{line_style(position)}"
            axes.plot(x, y, marks, color=colour(position), label=label, markersize=5, linewidth=1)
            continue
        # Few test images a class put thousands of dots on a few levels, which must not look like lines.
        alpha = max(0.05, min(0.25, 300 / (len(order) * len(series))))
        axes.plot(x, y, ".", color=colour(position), markersize=2, alpha=alpha, zorder=DOTS)
        bins = list(zip(np.array_split(x, BINS), np.array_split(y, BINS), strict=True))
        means = [(part_x.mean(), part_y.mean()) for part_x, part_y in bins if len(part_x)]
        line = axes.plot(*zip(*means, strict=True), color=colour(position), label=label, linewidth=2)[0]
        line.set(linestyle=line_style(position), zorder=LINES)


def accuracy_by_class_axis(axes: Axes) -> None:
    """The axis of accuracies, 0 to 100 %."""
    axes.set_ylim(-3, 103)
    axes.set_ylabel("top-1 accuracy of the class (%)")


def most_frequent_first(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(C,) classes by falling number of training images, equal ones in the order of their labels."""
    return np.argsort(-counts, kind="stable")


def _class_axis(axes: Axes, order: NDArray[np.int64]) -> None:
    axes.set_xlim(-0.5, len(order) - 0.5)
    if len(order) <= 20:
        axes.set_xticks(np.arange(len(order)), [str(label) for label in order])
        axes.set_xlabel("class label, most frequent first")
    elif len(order) <= FEW_CLASSES:
        axes.set_xlabel("rank of the class (the most frequent is 0)")
    else:
        few, more = len(order) // BINS, -(-len(order) // BINS)
        neighbours = f"{few}" if few == more else f"{few} or {more}"
        axes.set_xlabel(
            f"rank of the class (the most frequent is 0); lines: means of {neighbours} neighbours"
        )
