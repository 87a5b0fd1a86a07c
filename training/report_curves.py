"""Pictures of a run by epoch: losses and accuracy, α and learning rate, both heads, spread of the projection."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from training.report_style import (
    COLUMN_COLOURS,
    GREY,
    colour,
    draw_line,
    epoch_axis,
    legend_below,
    new_figure,
    save,
    style,
)
from training.run_record import COLUMNS, RunRecord, column

LOSSES = {
    "loss": "total",
    "loss_conventional": "conventional head",
    "loss_rebalanced": "rebalanced head",
    "loss_consistency": "consistency",
}


def title(run: RunRecord, what: str) -> str:
    """The first line of a picture of one run."""
    return f"{what}: {run.name} (method {run.summary['method']}, seed {run.summary['seed']})"


def best_epoch_note(run: RunRecord) -> str:
    """In words, which epoch was best and on what it was chosen; '' where nothing was evaluated."""
    best = run.summary["best"]
    if best is None:
        return ""
    chosen = f"Dotted line: the best epoch, {best['epoch']}, was chosen on "
    at = f"{100 * best['chosen_at']:.1f} % all"
    if best["split"] == "test":
        return f"{chosen}the test set itself ({at}), so its accuracy is no fair estimate; tables report the last epoch."
    return f"{chosen}the {best['split']} set ({at} there)."


def draw_curves(run: RunRecord, path: Path) -> Path:
    """Training loss with its parts, and accuracy of the inference head, by epoch."""
    head, split = run.summary["inference_head"], run.eval_split
    figure = new_figure(title(run, "Training"), best_epoch_note(run), width=10)
    losses, accuracy = figure.subplots(1, 2)
    for position, (name, label) in enumerate(LOSSES.items()):
        epochs, values = run.epoch_means(name)
        if epochs:
            draw_line(losses, epochs, values, label, "#000000" if name == "loss" else colour(position - 1))
    losses.set_ylabel("training loss, mean over the epoch")
    for name in COLUMNS if split else ():
        epochs, values = column(run.evaluations(split, head), name)
        if epochs:
            draw_line(accuracy, epochs, [100 * value for value in values], name, COLUMN_COLOURS[name])
    _accuracy_axis(accuracy, run)
    accuracy.set_title(f"{split or 'not evaluated'}, {head} head", fontsize=10)
    losses.set_title("training", fontsize=10)
    for axes in (losses, accuracy):
        style(axes)
        epoch_axis(axes)
        if axes.get_legend_handles_labels()[0]:
            legend_below(axes, columns=4)
    return save(figure, path)


def draw_alpha(run: RunRecord, path: Path) -> Path:
    """α, the weight of the conventional head's loss, and the learning rate, by epoch."""
    figure = new_figure(title(run, "Schedules"), "", width=10, height=3.6)
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("alpha", "learning_rate"),
        ("α, weight of the conventional loss", "learning rate"),
        strict=True,
    ):
        draw_line(axes, *run.epoch_means(name), label, colour(0))
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        style(axes)
        epoch_axis(axes)
    return save(figure, path)


def draw_heads(run: RunRecord, path: Path) -> Path:
    """Accuracy over all images of each trained head, by epoch."""
    figure = new_figure(title(run, "Accuracy of the heads"), best_epoch_note(run))
    axes = figure.subplots()
    for position, head in enumerate(run.trained_heads):
        used = " (inference)" if head == run.summary["inference_head"] else ""
        epochs, values = column(run.evaluations(run.eval_split, head), "all")
        draw_line(axes, epochs, [100 * value for value in values], f"{head} head{used}", colour(position))
    _accuracy_axis(axes, run)
    style(axes)
    epoch_axis(axes)
    legend_below(axes, columns=2)
    return save(figure, path)


def draw_projection_spread(run: RunRecord, path: Path) -> Path:
    """Spread of the normalised projection by epoch: a fall to 0 is collapse of the consistency loss."""
    figure = new_figure(title(run, "Spread of the projection"), "")
    axes = figure.subplots()
    entries = run.evaluations(run.eval_split, run.summary["inference_head"])
    draw_line(axes, *column(entries, "projection_spread"), "projection", colour(0))
    for level, meaning in ((1.0, "spread over the sphere"), (0.0, "collapsed on one direction")):
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle="--")
        axes.annotate(
            meaning,
            (0.99, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=8,
            color="#555555",
        )
    axes.set_ylim(-0.03, 1.12)
    axes.set_ylabel(f"std. deviation of z/‖z‖ × √dimension, {run.eval_split}")
    style(axes)
    epoch_axis(axes)
    return save(figure, path)


def _accuracy_axis(axes: Axes, run: RunRecord) -> None:
    best = run.summary["best"]
    if best is not None:
        axes.axvline(best["epoch"], color=GREY, linewidth=1, linestyle=":")
    axes.set_ylabel(f"top-1 accuracy, {run.eval_split or 'no evaluation'} (%)")
