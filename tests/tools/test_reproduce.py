"""Reproduction: statistics by hand and by SciPy, mistakes, and one real, short training with its resumption."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipelines.user_error import UserError
from tools.reproduce import describe, main, parse_methods, write_rows
from tools.seed_statistics import paired_interval, parse_seeds, sample_deviation

REPOSITORY = Path(__file__).resolve().parents[2]


def row(method: str, seed: int, overall: float, few: float | None = 0.25) -> dict[str, object]:
    return {"method": method, "seed": seed, "all": overall, "many": 0.9, "medium": 0.5, "few": few}


def test_statistics_by_hand() -> None:
    assert sample_deviation([0.7, 0.74, 0.78]) == pytest.approx(0.04)
    assert sample_deviation([0.7]) is None
    # differences 1, 2, 3: mean 2, deviation 1; t of 97.5 % with 2 degrees of freedom is 4.30265 (tables)
    found = paired_interval([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    half = 4.30265 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-5)


def test_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    ours, baseline = rng.normal(0.8, 0.02, 7), rng.normal(0.7, 0.05, 7)
    expected = stats.ttest_rel(ours, baseline).confidence_interval(0.95)
    found = paired_interval(list(ours), list(baseline))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_table_pairs_by_seed_whatever_the_order() -> None:
    rows = [row("glmc", 2, 0.79), row("ce", 1, 0.70), row("ce", 2, 0.76), row("glmc", 1, 0.71)]
    lines = describe(rows, ["glmc", "ce"])
    assert lines[1].split() == ["method", "All", "Many", "Medium", "Few"]
    assert lines[2] == "glmc        75.0 ± 5.7    90.0 ± 0.0    50.0 ± 0.0    25.0 ± 0.0"
    assert lines[3] == "ce          73.0 ± 4.2    90.0 ± 0.0    50.0 ± 0.0    25.0 ± 0.0"
    # differences 1 and 3 points: mean 2, half = 12.7062 (t, 1 degree) * sqrt(2) / sqrt(2)
    assert lines[4:] == [
        "glmc - ce, All: +2.0 points, paired 95 % interval -10.7 to +14.7 (Student's t, 2 seeds)"
    ]


def test_table_of_one_seed_has_no_interval_and_an_empty_group_a_dash() -> None:
    lines = describe([row("mix", 0, 0.5, None), row("glmc", 0, 0.6, None)], ["mix", "glmc"])
    assert lines[2].split() == ["mix", "50.0", "90.0", "50.0", "-"]
    assert len(lines) == 4


def test_without_ce_the_first_method_is_the_baseline() -> None:
    rows = [row(method, seed, 0.5 + seed / 10) for method in ("mix", "glmc") for seed in (0, 1)]
    assert describe(rows, ["mix", "glmc"])[4].startswith("glmc - mix, All: +0.0 points")


def test_rows_are_written_exactly_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("what an earlier, longer file held" * 100)
    rows = [row("ce", 0, 0.744, None)]
    write_rows(rows, path)
    assert json.loads(path.read_text()) == {"rows": rows}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ce,bbn", r"--methods ce,bbn: 'bbn' is not known; choose of ce, glmc, mix"),
        ("", r"'' is not known"),
        ("ce,ce", r"--methods ce,ce: name each method once"),
    ],
)
def test_methods_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_methods(text)


@pytest.mark.parametrize("text", ["", "0,", "-1", "0;1", "1.5", "²"])
def test_seeds_that_cannot_be(text: str) -> None:
    with pytest.raises(UserError, match=r"give whole numbers from 0 with commas between"):
        parse_seeds(text)


def test_seeds() -> None:
    assert parse_seeds("0,12,3") == [0, 12, 3]
    with pytest.raises(UserError, match="--seeds 1,01: name each seed once"):
        parse_seeds("1,01")


def test_mistakes_are_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, message in [
        (["--json", "none/rows.json"], "none/rows.json: the folder of the output does not exist"),
        (["--json", "rows.json", "--epochs", "0"], "--epochs 0: give 1 or more"),
        (["--json", "rows.json", "--methods", "sgd"], "--methods sgd: 'sgd' is not known"),
    ]:
        assert main(["digits", *arguments]) == 2
        assert capsys.readouterr().err.startswith(f"reproduce: {message}")
    assert list(tmp_path.iterdir()) == []


def test_one_real_epoch_and_its_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    command = ["digits", "--json", "rows.json", "--methods", "ce", "--seeds", "5", "--epochs"]
    script = [sys.executable, str(REPOSITORY / "tools" / "reproduce.py"), *command, "1"]
    first = subprocess.run(script, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs" / "reproduce" / "digits_lt_ce_seed5"
    summary = json.loads((folder / "summary.json").read_text())
    columns = {name: summary["accuracy"][name] for name in ("all", "many", "medium", "few")}
    assert json.loads((tmp_path / "rows.json").read_text()) == {
        "rows": [{"method": "ce", "seed": 5, **columns}]
    }
    assert f"{100 * columns['all']:.1f}" in first.stdout

    # A finished run is read, not made: a figure that no training gives comes back, and no file changes.
    summary["accuracy"]["all"] = 0.123
    (folder / "summary.json").write_text(json.dumps(summary))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([*command, "1"]) == 0
    printed, complained = capfd.readouterr()
    assert complained == ""
    assert "digits_lt_ce_seed5: finished before" in printed
    assert json.loads((tmp_path / "rows.json").read_text())["rows"][0]["all"] == 0.123

    # One with other settings is not passed off as the run that is asked for.
    assert main([*command, "2"]) == 2
    assert "holds a run with other settings: optim.epochs (1 there, 2 here)" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
