"""summary.json holds what is promised, and its accuracies are those of the saved weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.run_folder import RunFolder
from training.summary import describe

COUNTS = [int(120 * 50 ** (-c / 9)) for c in range(10)]
ACCURACY = {
    *("all", "top5", "many", "medium", "few", "macro", "worst", "worst_class", "geometric_mean"),
    *("harmonic_mean", "never_right", "by_rule", "per_class", "calibration_error", "shifted"),
}


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_the_keys(glmc_run: Path) -> None:
    summary = read(glmc_run)
    assert summary.keys() == {
        *("method", "seed", "epochs", "inference_head", "accuracy", "best", "shot_rule", "class_counts"),
        *("images_per_second", "pairs_per_second", "seconds", "versions"),
    }
    assert summary["accuracy"].keys() == ACCURACY
    assert summary["best"].keys() == ACCURACY | {"epoch", "split", "chosen_at"}
    assert {"python", "fasttail", "torch", "torchvision", "numpy"} <= summary["versions"].keys()


def test_the_values(glmc_run: Path) -> None:
    summary = read(glmc_run)
    assert (summary["method"], summary["seed"], summary["epochs"]) == ("glmc", 0, 3)
    assert summary["inference_head"] == "rebalanced"
    assert summary["shot_rule"] == "many > 100, medium 20 to 100, few < 20 training images a class"
    assert summary["class_counts"] == COUNTS
    assert summary["images_per_second"] == pytest.approx(2 * summary["pairs_per_second"])
    assert 0 < summary["pairs_per_second"] < math.inf
    # 3 epochs of 6 steps of 64 pairs cannot have taken longer than the run, nor the run than training at this rate
    assert 3 * 6 * 64 / summary["pairs_per_second"] <= summary["seconds"]


def test_accuracy_equals_a_recount_of_the_saved_weights(
    glmc_run: Path, recount: Callable[[Path], tuple[dict[str, list[int]], float]]
) -> None:
    accuracy = read(glmc_run)["accuracy"]
    right, spread = recount(glmc_run / "checkpoints" / "last.pt")
    per_class = [count / 50 for count in right["rebalanced"]]
    assert accuracy["per_class"] == per_class
    assert accuracy["all"] == sum(right["rebalanced"]) / 500
    groups = {"many": lambda n: n > 100, "medium": lambda n: 20 <= n <= 100, "few": lambda n: n < 20}
    for name, belongs in groups.items():
        members = [value for value, n in zip(per_class, COUNTS, strict=True) if belongs(n)]
        assert accuracy[name] == pytest.approx(sum(members) / len(members), abs=1e-12), name
    entries = [json.loads(line) for line in (glmc_run / "metrics.jsonl").read_text().splitlines()]
    for head in ("conventional", "rebalanced"):
        (entry,) = (e for e in entries if e["kind"] == "eval" and e["epoch"] == 2 and e["head"] == head)
        assert entry["all"] == sum(right[head]) / 500
        assert entry["projection_spread"] == pytest.approx(spread, rel=1e-4)


def test_best_is_the_first_best_epoch_and_best_pt_holds_it(
    glmc_run: Path, recount: Callable[[Path], tuple[dict[str, list[int]], float]]
) -> None:
    best = read(glmc_run)["best"]
    entries = [json.loads(line) for line in (glmc_run / "metrics.jsonl").read_text().splitlines()]
    by_epoch = [e["all"] for e in entries if e["kind"] == "eval" and e["head"] == "rebalanced"]
    assert len(by_epoch) == 3
    assert best["split"] == "test"
    assert best["chosen_at"] == best["all"] == max(by_epoch)
    assert best["epoch"] == by_epoch.index(max(by_epoch))
    right, _ = recount(glmc_run / "checkpoints" / "best.pt")
    assert best["per_class"] == [count / 50 for count in right["rebalanced"]]


def test_the_terminal_shows_percent_and_says_what_chose_the_best_epoch(tmp_path: Path) -> None:
    accuracy = {"all": 0.1234, "many": 1.0, "medium": None, "few": 0.0, "per_class": [1.0, 0.0]}
    more = {"top5": None, "macro": 0.5, "worst": 0.0, "geometric_mean": 0.0, "calibration_error": 0.045}
    summary: dict[str, Any] = {
        "inference_head": "rebalanced",
        "accuracy": accuracy,
        "best": {"epoch": 4, "split": "test", "chosen_at": 0.5, **accuracy},
    }
    text = describe(summary, RunFolder(tmp_path), [tmp_path / "report" / "curves.png"])
    assert "(rebalanced head): all 12.3 %, many 100.0 %, medium -, few 0.0 %" in text
    assert (
        "Best epoch 4, chosen on data.test, the test set itself, as the literature does: 50.0 % there" in text
    )
    assert "Of the same" not in text, "an older version counted no more"
    now = describe({**summary, "accuracy": {**accuracy, **more}}, RunFolder(tmp_path), [])
    assert (
        "Of the same: top-5 -, mean over classes 50.0 %, worst class 0.0 %, geometric mean 0.0 %, expected "
        "calibration error 4.5 %"
    ) in now
    assert f"Picture: {tmp_path / 'report' / 'curves.png'}" in text
    on_val = describe({**summary, "best": {**summary["best"], "split": "val"}}, RunFolder(tmp_path), [])
    assert "chosen on data.val: 50.0 % there" in on_val
    nothing = describe({**summary, "accuracy": None, "best": None}, RunFolder(tmp_path), [])
    assert nothing == f"Results: {tmp_path / 'summary.json'}"
