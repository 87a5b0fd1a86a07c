"""Reports of runs built by hand: which pictures there are, what they say, what is refused."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

import training.report
from pipelines.user_error import UserError
from training.checkpoint import Checkpoint, save_checkpoint
from training.report import write_report
from training.report_classes import draw_over_classes, frequency_axes, most_frequent_first
from training.report_curves import best_epoch_note
from training.report_shifts import draw_shifted_priors
from training.report_style import colour, draw_line, epoch_axis
from training.run_record import read_run

SHOT_RULE = "many > 100, medium 20 to 100, few < 20 training images a class"
COUNTS = [5, 200, 40, 40, 7]
PER_CLASS = [0.1, 0.9, 0.5, 0.6, None]
ACCURACY = {"all": 0.55, "many": 0.9, "medium": 0.55, "few": 0.1, "per_class": PER_CLASS}


def train_line(epoch: int, step: int, loss: float, **parts: float) -> dict[str, Any]:
    rates = {"pairs_per_second": 10.0, "images_per_second": 20.0}
    place = {"kind": "train", "epoch": epoch, "step": step}
    return {
        **place,
        "loss": loss,
        **parts,
        "learning_rate": 0.1 - 0.04 * epoch,
        "alpha": 1.0 - epoch / 2,
        **rates,
    }


def eval_line(split: str, head: str, epoch: int, accuracy: float, spread: float | None) -> dict[str, Any]:
    groups = {"all": accuracy, "many": accuracy + 0.1, "medium": accuracy, "few": None}
    place = {"kind": "eval", "split": split, "head": head, "epoch": epoch, "step": 7 * (epoch + 1)}
    return {**place, **groups, "projection_spread": spread}


def write_run(
    folder: Path, *, method: str = "glmc", splits: tuple[str, ...] = ("test",), gamma: float = 4.0
) -> Path:
    """A finished run of two epochs of seven steps."""
    heads = ("conventional", "rebalanced") if method == "glmc" else ("conventional",)
    parts = (
        {"loss_conventional": 1.0, "loss_rebalanced": 2.0, "loss_consistency": -0.5}
        if method == "glmc"
        else {}
    )
    lines = []
    for epoch in range(2):
        lines += [train_line(epoch, 7 * epoch + 5, 3.0 - epoch, **parts)]
        lines += [train_line(epoch, 7 * epoch + 7, 10.0 - epoch, **parts)]
        lines += [
            eval_line(split, head, epoch, 0.3 + 0.2 * epoch, 0.8 if method == "glmc" else None)
            for split in splits
            for head in heads
        ]
    chosen_on = "val" if "val" in splits else "test"
    summary = {
        "method": method,
        "seed": 3,
        "epochs": 2,
        "inference_head": heads[-1],
        "accuracy": ACCURACY if "test" in splits else None,
        "best": {"epoch": 1, "split": chosen_on, "chosen_at": 0.5, **ACCURACY} if splits else None,
        "shot_rule": SHOT_RULE,
        "class_counts": COUNTS,
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": method, "glmc": {"gamma": gamma}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps(summary))
    model = {f"{head}_head.weight": torch.ones(len(COUNTS), 3) for head in ("conventional", "rebalanced")}
    save_checkpoint(
        Checkpoint(14, model, {}, {}, {}, None, None, 1.0, {}), folder / "checkpoints" / "last.pt"
    )
    return folder


EVERY_RUN = {"curves.png", "alpha.png", "classifier_norm.png"}


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({"method": "glmc"}, {"heads.png", "class_accuracy.png", "projection_spread.png"}),
        ({"method": "glmc", "gamma": 0.0}, {"heads.png", "class_accuracy.png"}),
        ({"method": "ce"}, {"heads.png", "class_accuracy.png"}),
        ({"method": "glmc", "splits": ("val",)}, {"heads.png", "projection_spread.png"}),
        (
            {"method": "glmc", "splits": ("val", "test")},
            {"heads.png", "class_accuracy.png", "projection_spread.png"},
        ),
        ({"method": "ce", "splits": ()}, set()),
    ],
)
def test_which_pictures(tmp_path: Path, settings: dict[str, Any], more: set[str]) -> None:
    folder = write_run(tmp_path / "run", **settings)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pictures = write_report(folder)
    assert {picture.name for picture in pictures} == EVERY_RUN | more
    assert set(pictures) == set((folder / "report").iterdir())
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.format == "PNG"
            assert image.convert("L").getextrema() == (0, 255)
    assert {path: path.read_bytes() for path in before} == before


def test_accuracy_by_test_prior(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["accuracy"]["shifted"] = {"uniform": 0.55}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "shifted_priors.png" not in {picture.name for picture in write_report(folder)}
    summary["accuracy"]["shifted"] = {"forward2": 0.6, "uniform": 0.55, "backward2": 0.5}
    (folder / "summary.json").write_text(json.dumps(summary))
    run, path = read_run(folder), folder / "report" / "shifted_priors.png"
    assert draw_shifted_priors(run, path) == path
    with Image.open(path) as image:
        assert image.convert("L").getextrema() == (0, 255)


def test_drawn_again_it_is_the_same(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    first = {picture: picture.read_bytes() for picture in write_report(folder)}
    assert {picture: picture.read_bytes() for picture in write_report(folder)} == first


def test_epoch_means_weigh_entries_by_their_steps(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    epochs, means = run.epoch_means("loss")
    assert epochs == [0, 1]
    assert means == pytest.approx([(5 * 3.0 + 2 * 10.0) / 7, (5 * 2.0 + 2 * 9.0) / 7])
    assert run.epoch_means("loss_consistency")[1] == pytest.approx([-0.5, -0.5])
    assert run.epoch_means("absent") == ([], [])


def test_record_of_a_run(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "my_run", splits=("val", "test")))
    assert (run.name, run.eval_split) == ("my_run", "test")
    assert run.trained_heads == ["conventional", "rebalanced"]
    assert run.class_groups.tolist() == [2, 0, 1, 1, 2]
    assert [(e["split"], e["head"], e["epoch"]) for e in run.evaluations("val", "rebalanced")] == [
        ("val", "rebalanced", 0),
        ("val", "rebalanced", 1),
    ]
    assert run.class_accuracy is not None
    assert run.class_accuracy[:4].tolist() == PER_CLASS[:4]
    assert math.isnan(run.class_accuracy[4])
    assert read_run(write_run(tmp_path / "ce", method="ce")).trained_heads == ["conventional"]


def test_the_best_epoch_in_words(tmp_path: Path) -> None:
    on_test = best_epoch_note(read_run(write_run(tmp_path / "a")))
    assert "epoch, 1, was chosen on the test set itself (50.0 % all)" in on_test
    on_val = best_epoch_note(read_run(write_run(tmp_path / "b", splits=("val", "test"))))
    assert "epoch, 1, was chosen on the val set (50.0 % all there)" in on_val
    assert "test" not in on_val
    assert best_epoch_note(read_run(write_run(tmp_path / "c", splits=()))) == ""


def test_classes_are_drawn_by_falling_frequency(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert most_frequent_first(run.class_counts).tolist() == [1, 2, 3, 4, 0]
    axes = frequency_axes(Figure(), run, {"many": 0.9, "medium": None, "few": 0.1})
    assert run.class_accuracy is not None
    draw_over_classes(axes, run.class_counts, {"accuracy": run.class_accuracy})
    (line,) = axes.lines
    assert np.asarray(line.get_xydata()).tolist() == [
        [0, 0.9],
        [1, 0.5],
        [2, 0.6],
        [4, 0.1],
    ]  # class 4 has no test images
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3", "4", "0"]
    assert [(text.get_text(), text.xy[0]) for text in axes.texts if isinstance(text, Annotation)] == [
        ("many\n90.0 %", 0.0),
        ("medium", 1.5),
        ("few\n10.0 %", 3.5),
    ]


def test_many_classes_are_drawn_as_means() -> None:
    counts = np.arange(400, 0, -1)
    values = np.arange(400.0)
    axes = Figure().subplots()
    draw_over_classes(axes, counts, {"accuracy": values})
    dots, means = axes.lines
    assert np.asarray(dots.get_xydata()).shape == (400, 2)
    assert np.asarray(means.get_xydata()) == pytest.approx(np.stack([np.arange(4.5, 400, 10)] * 2, axis=1))


def test_it_is_there_when_all_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is finished once its report is there, so half of one would stay half."""
    folder = write_run(tmp_path / "run")

    def full(run: object, path: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(training.report, "draw_heads", full)
        with pytest.raises(
            UserError, match=r"cannot write the pictures \(No space left on device\); make room"
        ):
            write_report(folder)
    assert not (folder / "report").exists()
    whole = write_report(folder)
    assert set(whole) == set((folder / "report").iterdir())
    assert not list(folder.glob("*.partial")) + list(folder.glob(".*"))


def test_no_dots_hide_a_line_or_look_like_one() -> None:
    """As with iNaturalist 2018's three test images a class: four levels for thousands of classes."""
    counts, levels = np.arange(8000, 0, -1), np.arange(8000) % 4 / 3
    axes = Figure().subplots()
    draw_over_classes(axes, counts, {"one": levels, "other": levels})
    dots, lines = axes.lines[::2], axes.lines[1::2]
    assert max(each.get_zorder() for each in dots) < min(each.get_zorder() for each in lines)
    assert {each.get_alpha() for each in dots} == {0.05}


@pytest.mark.parametrize(("classes", "neighbours"), [(1000, "25"), (100, "2 or 3"), (8142, "203 or 204")])
def test_a_line_says_how_many_classes_a_mean_is_of(tmp_path: Path, classes: int, neighbours: str) -> None:
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "class_counts": [7] * classes}))
    label = frequency_axes(Figure(), read_run(folder), {}).get_xlabel()
    assert label.endswith(f"lines: means of {neighbours} neighbours")


def test_one_epoch_has_one_tick() -> None:
    axes = Figure().subplots()
    draw_line(axes, [0], [0.5], "all", colour(0))
    epoch_axis(axes)
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [0]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such run folder; train it, or correct the path"):
        write_report(tmp_path / "nowhere")
    folder = write_run(tmp_path / "run")
    (folder / "report").write_text("in the way")
    with pytest.raises(UserError, match=r"run/report: cannot write the pictures \(Not a directory\)"):
        write_report(folder)
    (folder / "metrics.jsonl").write_text('{"kind": "train", "ep')
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot be read \(Unterminated string"):
        write_report(folder)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot be read \(No such file or directory\)"):
        write_report(folder)
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match=r"run: not a finished run \(it has no summary.json\)"):
        write_report(folder)
