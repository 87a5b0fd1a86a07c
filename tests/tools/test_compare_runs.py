"""The comparison as a user meets it, on runs built by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from tools.compare_runs import main

COUNTS = [300, 150, 60, 20, 100]
SHOT_RULE = "many > 100, medium 20 to 100, few < 20 training images a class"


def write_run(folder: Path, **changes: Any) -> Path:
    """A finished run whose groups are: 2 many, 3 medium, no few."""
    accuracy = {
        "all": 0.744,
        "many": 0.98765,
        "medium": 0.5,
        "few": None,
        "per_class": [1.0, 0.9, 0.8, 0.2, 0.1],
    }
    summary = {
        "method": "ce",
        "seed": 4,
        "epochs": 2,
        "inference_head": "conventional",
        "accuracy": accuracy,
        "best": None,
        "shot_rule": SHOT_RULE,
        "class_counts": COUNTS,
        **changes,
    }
    lines = [
        {
            "kind": "eval",
            "split": "test",
            "head": "conventional",
            "epoch": epoch,
            "step": epoch + 1,
            "all": 0.5,
        }
        for epoch in range(2)
    ]
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "curves.png").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": "ce"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_table_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    better = {
        "all": 0.7936,
        "many": 0.9,
        "medium": 0.70049,
        "few": None,
        "per_class": [0.9, 0.9, None, 0.7, 0.7],
        **{"top5": None, "macro": 0.8, "worst": 0.7, "geometric_mean": 0.79373, "harmonic_mean": 0.7875},
        "calibration_error": 0.0345,
        "shifted": {"forward2": 0.83, "uniform": 0.8, "backward2": 0.77, "forward50": 0.8801},
    }
    a = write_run(tmp_path / "plain")
    b = write_run(tmp_path / "mixed", method="glmc", seed=11, accuracy=better)
    out = tmp_path / "new" / "out"
    assert main([str(a), str(b), "--out", str(out)]) == 0
    printed, complained = capsys.readouterr()
    assert complained == ""
    assert printed.splitlines() == [
        "Top-1 accuracy in percent on data.test, last epoch",
        "run    method  seed  epochs   All  Many  Medium  Few",
        "plain  ce         4       2  74.4  98.8    50.0    -",
        "mixed  glmc      11       2  79.4  90.0    70.0    -",
        "5 classes: 2 many, 3 medium, 0 few (many > 100, medium 20 to 100, few < 20 training images a class)",
        "",
        "Of the same: top-5, over the classes' accuracies, expected calibration error, shifted test priors",
        "run    method  Top-5  Mean  Worst  Geometric  Harmonic  Calibration  Forward-50  Backward-50",
        "plain  ce          -     -      -          -         -            -           -            -",
        "mixed  glmc        -  80.0   70.0       79.4      78.8          3.5        88.0            -",
        "",
        "Pictures:",
        f"  {out}/class_accuracy.png",
        f"  {out}/curves.png",
        f"  {a}/report/curves.png",
        f"  {b}/report/curves.png",
    ]
    for picture in out.iterdir():
        with Image.open(picture) as image:
            assert image.format == "PNG"
    assert {picture.name for picture in out.iterdir()} == {"class_accuracy.png", "curves.png"}


def test_runs_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / parent / "run") for parent in "ab"]
    assert main([*map(str, runs), "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == [str(run) for run in runs]


def test_every_name_of_many_runs_is_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names as a grid gives them, one wider than the picture; more runs than there are colours."""
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **b: drawn.append(figure) or save(figure, *a, **b)
    )
    long = "config=imagenet_lt_glmc_head,optim.lr=0.05,glmc.gamma=10"
    runs = [write_run(tmp_path / f"{long},seed={seed}") for seed in range(8)]
    runs.append(
        write_run(tmp_path / f"{long},mix.scope=sample,sampler.q=0.2,optim.weight_decay=0.0002,seed=10")
    )
    assert main([*map(str, runs), "--out", str(tmp_path / "out")]) == 0  # warnings are errors
    assert len(drawn) == 2
    for figure in drawn:
        legend = next(axes.get_legend() for axes in figure.axes if axes.get_legend())
        names = ["".join(text.get_text().split()) for text in legend.get_texts()]
        assert [name.split(",all")[0] for name in names] == [run.name for run in runs]
        box, whole = legend.get_window_extent(), figure.bbox
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1 and whole.y0 <= box.y0
        looks = {(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}
        assert len(looks) == len(runs)
        assert all(axes.get_position().height > 0.4 for axes in figure.axes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": None}, "other: no test accuracy; train it with --data.test"),
        ({"class_counts": [1, 2, 3, 4, 5]}, "other: has another training images a class than "),
        ({"shot_rule": "by the moon"}, "other: has another many / medium / few rule than "),
    ],
)
def test_runs_that_do_not_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    runs = [write_run(tmp_path / "run"), write_run(tmp_path / "other", **changes)]
    assert main([*map(str, runs), "--out", str(tmp_path / "out")]) == 2
    printed, complained = capsys.readouterr()
    assert printed == ""
    assert f"compare_runs: {tmp_path}/{message}" in complained
    assert complained.count("\n") == 1


def test_missing_and_unfinished_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert main([str(run), str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"compare_runs: {tmp_path}/none: no such run folder; train it, or correct the path\n"
    )
    assert main([str(run), "--out", str(run / "summary.json")]) == 2
    assert "summary.json: cannot be written (File exists)" in capsys.readouterr().err
    (run / "summary.json").unlink()
    assert main([str(run), "--out", str(tmp_path / "out")]) == 2
    assert "run: not a finished run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
