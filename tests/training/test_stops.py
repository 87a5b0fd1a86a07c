"""A run that was stopped, anywhere and by anything, ends as if it had not been: real processes, real signals."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
EPOCHS, STEPS_AN_EPOCH = 2, 21
TOTAL = EPOCHS * STEPS_AN_EPOCH
REQUEUE, INTERRUPTED = 75, 130
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
    start_process: Callable[..., subprocess.Popen[str]],
    free_port: Callable[[], int],
) -> Seen:
    """All runs, one after the other. A checkpoint is written after each step for which the writer has time."""
    parent = tmp_path_factory.mktemp("runs")
    settings = ["--run.device=cpu", "--run.log_steps=4", "--optim.batch_size=16", "--checkpoint.minutes=1e-9"]
    plans = [
        {
            "arguments": options(parent / name, *settings, *OF_RUN.get(name, ()), epochs=EPOCHS),
            "folder": str(parent / name),
            "ranks": 2 if name.startswith("two") else 1,
            "port": free_port(),
            "stops": stops,
        }
        for name, stops in STOPS.items()
    ]
    process = start_process([json.dumps(plans)], module=("tests.training.stopped_runs",))
    out, errors = process.communicate(timeout=3000)
    assert process.returncode == 0, errors
    return Seen(parent, dict(zip(STOPS, json.loads(out.splitlines()[-1]), strict=True)))


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield path, (value.dtype, value.shape, value.numpy().tobytes())
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(each, f"{path}/{key}")
    else:
        yield path, value


def result(folder: Path) -> dict[str, Any]:
    """Everything in last.pt and metrics.jsonl but times and what the command line may change."""
    saved = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert isinstance(saved.pop("seconds"), float)
    saved["config"]["run"].pop("folder")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for rate in ("pairs_per_second", "images_per_second"):
            line.pop(rate, None)
    return dict(flat({"saved": saved, "lines": lines}))


def test_undisturbed_runs_are_what_the_others_are_compared_with(seen: Seen) -> None:
    assert seen.starts["undisturbed"] == [{"statuses": [0], "step": TOTAL}]
    assert seen.starts["two undisturbed"] == [{"statuses": [0, 0], "step": TOTAL}]
    values = result(seen.parent / "undisturbed")
    assert any("momentum_buffer" in name for name in values)
    losses = [name for name in values if name.startswith("/lines") and name.endswith("/loss")]
    assert len(losses) == 12  # every 4 steps, and at the end of both epochs
    assert values != result(seen.parent / "two undisturbed")


def test_killed_at_random_steps_a_run_ends_as_if_it_had_not_been(seen: Seen) -> None:
    assert seen.starts["killed"][-1] == {"statuses": [0], "step": TOTAL}
    assert {tuple(each) for each in seen.statuses("killed")[:-1]} == {(-signal.SIGKILL,)}
    assert len(seen.starts["killed"]) == 1 + len(STOPS["killed"])
    assert any(start["step"] % STEPS_AN_EPOCH for start in seen.starts["killed"]), "within an epoch, too"
    assert result(seen.parent / "killed") == result(seen.parent / "undisturbed")


def test_asked_to_stop_a_run_saves_and_says_whether_to_start_it_again(seen: Seen) -> None:
    assert seen.statuses("asked") == [[REQUEUE], [REQUEUE], [INTERRUPTED], [0]]
    assert result(seen.parent / "asked") == result(seen.parent / "undisturbed")
    last = seen.parent / "asked" / "checkpoints" / "last.pt"
    said = f"Stopped by a signal. {last} holds the run; the same command goes on from there"
    assert seen.said("asked") == [said] * 3


def test_a_signal_to_one_rank_stops_all_after_the_same_step(seen: Seen) -> None:
    assert seen.statuses("two asked") == [[REQUEUE] * 2, [INTERRUPTED] * 2, [0, 0]]
    assert result(seen.parent / "two asked") == result(seen.parent / "two undisturbed")
    assert len(seen.said("two asked")) == 2, "rank 0 says it"
    stopped = [start["step"] for start in seen.starts["two asked"][:-1]]
    assert any(step % STEPS_AN_EPOCH and step % 5 for step in stopped), "between two lines of the log"


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
