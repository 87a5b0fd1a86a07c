"""The pictures of a finished run, drawn from its folder alone, so that they can be drawn again at any time."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.user_error import UserError
from pipelines.whole_file import hidden_path
from training.report_classes import draw_class_accuracy, draw_classifier_norm
from training.report_curves import draw_alpha, draw_curves, draw_heads, draw_projection_spread
from training.report_shifts import draw_shifted_priors
from training.run_record import RunRecord, read_run


def write_report(folder: Path) -> list[Path]:
    """Draw every picture that fits the run in `folder` into `folder/report` and return their paths.

    That folder appears when all are drawn: whoever sees it need not draw them again.
    Heads need an evaluation, accuracy by class and by test prior need data.test, and the spread of the projection
    is drawn only where the consistency loss trains it. Raises `UserError` for an unfinished run and an unwritable
    folder.
    """
    run = read_run(folder)
    report, drawn = run.folder.report, hidden_path(run.folder.report)
    try:
        if drawn.exists():  # of a process that was killed while it drew
            shutil.rmtree(drawn)
        drawn.mkdir()
        names = [picture.name for picture in _draw(run, drawn)]
        if report.is_dir():
            shutil.rmtree(report)
        drawn.rename(report)
    except OSError as error:
        raise UserError(
            f"{report}: cannot write the pictures ({error.strerror}); make room or mend it"
        ) from None
    return [report / name for name in names]


def _draw(run: RunRecord, folder: Path) -> list[Path]:
    pictures = [
        draw_class_accuracy(run, folder / "class_accuracy.png"),
        draw_curves(run, folder / "curves.png"),
        draw_alpha(run, folder / "alpha.png"),
        draw_heads(run, folder / "heads.png") if run.eval_split else None,
        draw_shifted_priors(run, folder / "shifted_priors.png"),
        draw_classifier_norm(run, folder / "classifier_norm.png"),
        draw_projection_spread(run, folder / "projection_spread.png") if _trains_projection(run) else None,
    ]
    return [picture for picture in pictures if picture is not None]


def _trains_projection(run: RunRecord) -> bool:
    """Whether the spread was measured and the consistency loss has weight."""
    measured = any(entry["projection_spread"] is not None for entry in run.evaluations(run.eval_split))
    return measured and run.config["glmc"]["gamma"] > 0
