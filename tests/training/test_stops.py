"""A run that was stopped, anywhere and by anything, ends as if it had not been: real processes, real signals."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EPOCHS, STEPS_AN_EPOCH = 2, 21
TOTAL = EPOCHS * STEPS_AN_EPOCH
REQUEUE, INTERRUPTED = 75, 130
ResultOf = Callable[[Path], dict[str, Any]]
DRAWS = random.Random(20)
STOPS: dict[str, list[tuple[int, str, int, float]]] = {
    "undisturbed": [],
    "killed": [
        (step, "SIGKILL", 0, DRAWS.uniform(0, 0.05)) for step in sorted(DRAWS.sample(range(1, 34), 5))
    ],
    "asked": [(3, "SIGTERM", 0, 0.0), (16, "SIGUSR1", 0, 0.01), (28, "SIGINT", 0, 0.02)],
    "two undisturbed": [],
    "two asked": [(2, "SIGUSR1", 1, 0.0), (18, "SIGINT", 0, 0.0)],
}
"""By run: step, signal, rank that gets it, and seconds after that step. Runs that begin with "two" have two ranks."""


OF_RUN = {name: ("--run.log_steps=5",) for name in STOPS if name.startswith("two")}
"""Two ranks save every fourth step at most, and are to be stopped between two lines of the log."""


@dataclass(frozen=True)
class Seen:
    """What became of the runs."""

    parent: Path
    """Holds the run folders."""
    starts: dict[str, list[dict[str, Any]]]
    """By run, for each start: `statuses` of the ranks, and `step` of the newest checkpoint then."""

    def statuses(self, run: str) -> list[list[int]]:
        return [start["statuses"] for start in self.starts[run]]

    def said(self, run: str) -> list[str]:
        printed = (self.parent / f"{run}.out").read_text().splitlines()
        return [line for line in printed if "Stopped" in line]


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory,
    options: Callable[..., list[str]],
    run_with_stops: Callable[..., list[list[dict[str, Any]]]],
) -> Seen:
    """All runs, one after the other. A checkpoint is written after each step for which the writer has time."""
    parent = tmp_path_factory.mktemp("runs")
    settings = ["--run.device=cpu", "--run.log_steps=4", "--optim.batch_size=16", "--checkpoint.minutes=1e-9"]
    plans: list[dict[str, Any]] = [
        {
            "arguments": options(parent / name, *settings, *OF_RUN.get(name, ()), epochs=EPOCHS),
            "folder": str(parent / name),
            "ranks": 2 if name.startswith("two") else 1,
            "stops": stops,
        }
        for name, stops in STOPS.items()
    ]
    refused = next(plan for plan in plans if plan["folder"].endswith("two undisturbed"))
    folder = str(parent / "two refused")  # of its output
    plans.append({**refused, "arguments": [*refused["arguments"], "--optim.lr=9"], "folder": folder})
    return Seen(parent, dict(zip([*STOPS, "two refused"], run_with_stops(plans), strict=True)))


def test_undisturbed_runs_are_what_the_others_are_compared_with(seen: Seen, result_of: ResultOf) -> None:
    assert seen.starts["undisturbed"] == [{"statuses": [0], "step": TOTAL}]
    assert seen.starts["two undisturbed"] == [{"statuses": [0, 0], "step": TOTAL}]
    values = result_of(seen.parent / "undisturbed")
    assert any("momentum_buffer" in name for name in values)
    losses = [name for name in values if name.startswith("/lines") and name.endswith("/loss")]
    assert len(losses) == 12  # every 4 steps, and at the end of both epochs
    assert values != result_of(seen.parent / "two undisturbed")


def test_killed_at_random_steps_a_run_ends_as_if_it_had_not_been(seen: Seen, result_of: ResultOf) -> None:
    assert seen.starts["killed"][-1] == {"statuses": [0], "step": TOTAL}
    assert {tuple(each) for each in seen.statuses("killed")[:-1]} == {(-signal.SIGKILL,)}
    assert len(seen.starts["killed"]) == 1 + len(STOPS["killed"])
    assert any(start["step"] % STEPS_AN_EPOCH for start in seen.starts["killed"]), "within an epoch, too"
    assert result_of(seen.parent / "killed") == result_of(seen.parent / "undisturbed")


def test_asked_to_stop_a_run_saves_and_says_whether_to_start_it_again(
    seen: Seen, result_of: ResultOf
) -> None:
    assert seen.statuses("asked") == [[REQUEUE], [REQUEUE], [INTERRUPTED], [0]]
    assert result_of(seen.parent / "asked") == result_of(seen.parent / "undisturbed")
    last = seen.parent / "asked" / "checkpoints" / "last.pt"
    said = f"Stopped by a signal. {last} holds the run; the same command goes on from there"
    assert seen.said("asked") == [said] * 3


def test_a_signal_to_one_rank_stops_all_after_the_same_step(seen: Seen, result_of: ResultOf) -> None:
    assert seen.statuses("two asked") == [[REQUEUE] * 2, [INTERRUPTED] * 2, [0, 0]]
    assert result_of(seen.parent / "two asked") == result_of(seen.parent / "two undisturbed")
    assert len(seen.said("two asked")) == 2, "rank 0 says it"
    stopped = [start["step"] for start in seen.starts["two asked"][:-1]]
    assert any(step % STEPS_AN_EPOCH and step % 5 for step in stopped), "between two lines of the log"


def test_what_rank_0_refuses_the_others_leave_in_silence(seen: Seen) -> None:
    """The folder of a run with other settings: one sentence, and no rank that waits for another or complains of it."""
    assert seen.statuses("two refused") == [[2, 2]]
    (said,) = (seen.parent / "two refused.out").read_text().splitlines()
    assert said.startswith("fasttail-train, rank 0 of 2 on ")
    assert "holds a run with other settings: optim.lr (0.05 there, 9.0 here)" in said


def test_the_newest_checkpoints_and_the_best_are_kept(seen: Seen) -> None:
    for run in STOPS:
        files = {path.name for path in (seen.parent / run / "checkpoints").iterdir()}
        steps = sorted(name for name in files if name.startswith("step_"))
        assert files - set(steps) == {"last.pt", "best.pt"}, run
        assert len(steps) == 2
        assert steps[-1] == f"step_{TOTAL:08d}.pt"
        assert (seen.parent / run / "checkpoints" / "last.pt").samefile(
            seen.parent / run / "checkpoints" / steps[-1]
        )
