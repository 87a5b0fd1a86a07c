"""The result of a finished run: summary.json, and the same in a few lines for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.accuracy import MAIN_RULE, SHOT_RULES
from training.disk_errors import written_whole
from training.loop import Trainer
from training.run_folder import RunFolder
from training.run_log import read_entries

SHOT_RULE = f"{SHOT_RULES[MAIN_RULE].text} training images a class"
MORE_FIGURES = {
    "top5": "top-5",
    "macro": "mean over classes",
    "worst": "worst class",
    "geometric_mean": "geometric mean",
    "harmonic_mean": "harmonic mean",
    "calibration_error": "expected calibration error",
}
"""What the terminal names in one line after the usual ones."""


def write_summary(trainer: Trainer) -> dict[str, Any]:
    """Write summary.json and return what it holds.

    `accuracy` holds the figures (`head_figures`) of the last epoch on data.test by the inference head; `best`
    those of the epoch that was best on `best.split`. The rates are of training steps alone, over all ranks.
    """
    rates = [entry for entry in read_entries(trainer.folder.metrics) if entry["kind"] == "train"][-1]
    summary = {
        "method": trainer.config.method,
        "seed": trainer.config.run.seed,
        "epochs": trainer.config.optim.epochs,
        "inference_head": trainer.step.objective.inference_head,
        "accuracy": trainer.last,
        "best": trainer.best,
        "shot_rule": SHOT_RULE,
        "class_counts": trainer.class_counts.tolist(),
        "images_per_second": rates["images_per_second"],
        "pairs_per_second": rates["pairs_per_second"],
        "seconds": trainer.clock.total_seconds,
        "versions": trainer.versions,
    }
    with written_whole(trainer.folder.summary, "the summary") as file:
        file.write(f"{json.dumps(summary, indent=1)}\n".encode())
    return summary


def describe(summary: dict[str, Any], folder: RunFolder, pictures: list[Path]) -> str:
    """What the terminal shows at the end of a run."""
    lines = []
    accuracy, best = summary["accuracy"], summary["best"]
    if accuracy is not None:
        groups = ", ".join(f"{name} {_percent(accuracy[name])}" for name in ("all", "many", "medium", "few"))
        lines.append(f"Top-1 of the last epoch on data.test ({summary['inference_head']} head): {groups}")
        present = [
            name for name in MORE_FIGURES if name in accuracy
        ]  # an older version's checkpoint has none
        more = ", ".join(f"{MORE_FIGURES[name]} {_percent(accuracy[name])}" for name in present)
        lines += [f"Of the same: {more}"] if more else []
    if best is not None:
        lines.append(
            f"Best epoch {best['epoch']}, chosen on data.{best['split']}"
            + (", the test set itself, as the literature does" if best["split"] == "test" else "")
            + f": {_percent(best['chosen_at'])} there"
        )
    lines.append(f"Results: {folder.summary}")
    return "\n".join(lines + [f"Picture: {picture}" for picture in pictures])


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
