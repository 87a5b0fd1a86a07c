"""A picture of accuracy under shifted test priors: a flat line is a model without a side."""

from __future__ import annotations

from pathlib import Path

from training.report_curves import title
from training.report_style import colour, new_figure, save, style
from training.run_record import RunRecord


def draw_shifted_priors(run: RunRecord, path: Path) -> Path | None:
    """Accuracy by test prior, last epoch on data.test; None where there is only the uniform one, or none."""
    shifted = (run.summary["accuracy"] or {}).get("shifted", {})
    if len(shifted) < 2:
        return None
    note = (
        f"Last epoch on data.test, {run.summary['inference_head']} head. ρ: test images of the most frequent test "
        "class over those of the rarest, reached by weights."
    )
    figure = new_figure(title(run, "Accuracy by test prior"), note)
    axes = figure.subplots()
    places = range(len(shifted))
    axes.plot(places, [100 * value for value in shifted.values()], "o-", color=colour(0), markersize=5)
    axes.set_xticks(list(places), [name.removeprefix("forward").removeprefix("backward") for name in shifted])
    axes.set_xlabel("test classes as frequent as in training, ρ  ←   →  the other way round, ρ")
    axes.set_ylim(-3, 103)
    axes.set_ylabel("top-1 accuracy (%)")
    style(axes)
    return save(figure, path)
