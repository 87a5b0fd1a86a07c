"""What a benchmark has measured is written at once, and it ends when its time is over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.machine import machine
from benchmarks.measurement import NONE, Case, Row, row_of, sum_up, values_in_turn
from benchmarks.progress import Progress, unfinished
from benchmarks.results import read_json, write_json


def row(name: str, value: float = 1.0) -> Row:
    return row_of([value], name=name, metric="m", unit="u")


def case(seconds: float) -> Case:
    def measure() -> float:
        time.sleep(seconds)
        return seconds

    return Case(name="sleeper", metric="m", unit="u", augmentation=NONE, measure=measure)


def test_kept_rows_stay_and_shown_ones_are_replaced() -> None:
    written: list[list[str]] = []
    progress = Progress(lambda rows: written.append([f"{each.name}{each.median:g}" for each in rows]))
    progress.keep([row("a")])
    progress.show([row("b", 2)])
    progress.show([row("b", 3), row("c")])
    progress.keep([row("b", 4)])
    assert written == [[], ["a1"], ["a1", "b2"], ["a1", "b3", "c1"], ["a1", "b4"]]
    assert [each.name for each in progress.rows] == ["a", "b"]


def test_an_older_file_is_replaced_before_anything_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text("figures of last week")
    Progress(lambda rows: write_json(path, [*rows, unfinished("peers")], machine(), {}, "abc"))
    assert [(each.name, each.metric) for each in read_json(path)["rows"]] == [("peers", "unfinished")]


def test_runs_end_when_there_is_no_time_for_another_round() -> None:
    shown: list[int] = []
    progress = Progress(lambda rows: shown.extend(each.runs for each in rows), minutes=0.35 / 60)
    cases = [case(0.1)]
    [values] = values_in_turn(cases, 50, after_round=progress.rounds(lambda values: sum_up(cases, values)))
    assert 1 <= len(values) <= 2, "0.1 s of warming up, 0.1 s, 0.1 s, and 0.05 s are left"
    assert shown == [*range(1, len(values) + 1)]
    assert progress.seconds_left() < 0.16


@pytest.mark.parametrize("minutes", [None, 1.0])
def test_runs_are_as_many_as_asked_for_where_time_allows(minutes: float | None) -> None:
    progress = Progress(minutes=minutes)
    [values] = values_in_turn([case(0.001)], 4, after_round=progress.rounds(lambda values: []))
    assert len(values) == 4


def test_one_round_counts_however_late_it_is() -> None:
    progress = Progress(minutes=1e-9)
    [values] = values_in_turn([case(0.001)], 4, after_round=progress.rounds(lambda values: []))
    assert len(values) == 1
    assert progress.seconds_left() < 0
