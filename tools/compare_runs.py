"""Finished runs side by side: a table of All / Many / Medium / Few, and their curves in common pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipelines.user_error import UserError, run_command
from training.accuracy import GROUPS
from training.report_classes import accuracy_by_class_axis, draw_over_classes, frequency_axes
from training.report_style import (
    colour,
    draw_line,
    epoch_axis,
    fitted_names,
    legend_below,
    line_style,
    new_figure,
    save,
    style,
)
from training.run_record import COLUMNS, RunRecord, column, read_run

WIDTH, HEIGHT = 8.5, 4.4
"""Of the pictures, inches; higher where there are many runs to name."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("compare_runs", lambda: run(arguments))


def run(arguments: list[str] | None) -> int:
    """Print the table, draw the pictures, say where they are."""
    parser = argparse.ArgumentParser(prog="compare_runs", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    options = parser.parse_args(arguments)
    runs = [read_run(folder) for folder in options.runs]
    check_comparable(runs)
    print(table(runs))
    print("\n" + more_table(runs))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        pictures = [
            draw_class_accuracies(runs, options.out / "class_accuracy.png"),
            draw_accuracies(runs, options.out / "curves.png"),
        ]
    except OSError as error:
        raise UserError(
            f"--out {options.out}: cannot be written ({error.strerror}); choose another"
        ) from None
    pictures += [picture for each in runs for picture in sorted(each.folder.report.glob("*.png"))]
    print("\nPictures:")
    print("\n".join(f"  {picture}" for picture in pictures))
    return 0


def check_comparable(runs: Sequence[RunRecord]) -> None:
    """Refuse runs without a test accuracy, and runs on other training sets or by another rule than the first."""
    first = runs[0]
    for each in runs:
        if each.summary["accuracy"] is None:
            raise UserError(f"{each.folder.path}: no test accuracy; train it with --data.test")
        for key, what in (
            ("class_counts", "training images a class"),
            ("shot_rule", "many / medium / few rule"),
        ):
            if each.summary[key] != first.summary[key]:
                raise UserError(
                    f"{each.folder.path}: has another {what} than {first.folder.path}; compare runs on one set"
                )


def names(runs: Sequence[RunRecord]) -> list[str]:
    """What to call each run: the folder's name, or its path where two have the same name."""
    short = [each.name for each in runs]
    return short if len(set(short)) == len(short) else [str(each.folder.path) for each in runs]


def table(runs: Sequence[RunRecord]) -> str:
    """Top-1 of the last epoch on data.test, in percent; a dash where a group has no classes."""
    heading = ["run", "method", "seed", "epochs", *(name.capitalize() for name in COLUMNS)]
    rows = [
        [
            name,
            *(str(each.summary[key]) for key in ("method", "seed", "epochs")),
            *(percent(each.summary["accuracy"][group]) for group in COLUMNS),
        ]
        for name, each in zip(names(runs), runs, strict=True)
    ]
    groups = runs[0].class_groups
    sizes = ", ".join(f"{(groups == code).sum()} {name}" for code, name in enumerate(GROUPS))
    return "\n".join(
        [
            "Top-1 accuracy in percent on data.test, last epoch",
            *align([heading, *rows]),
            f"{len(groups)} classes: {sizes} ({runs[0].summary['shot_rule']})",
        ]
    )


MORE_COLUMNS = {
    "Top-5": ("top5",),
    "Mean": ("macro",),
    "Worst": ("worst",),
    "Geometric": ("geometric_mean",),
    "Harmonic": ("harmonic_mean",),
    "Calibration": ("calibration_error",),
    "Forward-50": ("shifted", "forward50"),
    "Backward-50": ("shifted", "backward50"),
}
"""Heading -> keys in what `head_figures` returns; docs/evaluation.md says what each means."""


def more_table(runs: Sequence[RunRecord]) -> str:
    """The other figures of the same evaluation, in percent; a dash also where an older version did not count them."""
    rows = []
    for name, each in zip(names(runs), runs, strict=True):
        figures = []
        for keys in MORE_COLUMNS.values():
            value = each.summary["accuracy"]
            for key in keys:
                value = (value or {}).get(key)
            figures.append(percent(value))
        rows.append([name, each.summary["method"], *figures])
    title = (
        "Of the same: top-5, over the classes' accuracies, expected calibration error, shifted test priors"
    )
    return "\n".join([title, *align([["run", "method", *MORE_COLUMNS], *rows])])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first two columns to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def percent(fraction: float | None) -> str:
    """A fraction as percent with one decimal, a dash for none."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def draw_class_accuracies(runs: Sequence[RunRecord], path: Path) -> Path:
    """Accuracy of each class in each run over one picture of class frequency."""
    named = [
        f"{name}, all {percent(each.summary['accuracy']['all'])} %"
        for name, each in zip(names(runs), runs, strict=True)
    ]
    labels, columns, more = fitted_names(named, WIDTH)
    note = f"Last epoch on data.test. {runs[0].summary['shot_rule']}."
    figure = new_figure("Accuracy by class", note, width=WIDTH, height=HEIGHT + more)
    axes = frequency_axes(figure, runs[0], {})
    series = {}
    for label, each in zip(labels, runs, strict=True):
        assert each.class_accuracy is not None, "check_comparable refuses it"
        series[label] = 100 * each.class_accuracy
    draw_over_classes(axes, runs[0].class_counts, series)
    accuracy_by_class_axis(axes)
    legend_below(axes, columns)
    return save(figure, path)


def draw_accuracies(runs: Sequence[RunRecord], path: Path) -> Path:
    """Accuracy over all test images by epoch, through each run's inference head."""
    labels, columns, more = fitted_names(names(runs), WIDTH)
    note = "Each run through its inference head."
    figure = new_figure("Test accuracy by epoch", note, width=WIDTH, height=HEIGHT + more)
    axes = figure.subplots()
    for position, (label, each) in enumerate(zip(labels, runs, strict=True)):
        epochs, values = column(each.evaluations("test", each.summary["inference_head"]), "all")
        percents = [100 * value for value in values]
        draw_line(axes, epochs, percents, label, colour(position), line_style(position))
    axes.set_ylabel("top-1 accuracy, all test images (%)")
    style(axes)
    epoch_axis(axes)
    legend_below(axes, columns)
    return save(figure, path)


if __name__ == "__main__":
    raise SystemExit(main())
