"""Stopped and continued on a GPU in deterministic mode, a run is bit-identical to an undisturbed one.

Real processes and signals, for each decoder whose pixels do not depend on chance, and for the CUDA graph. One run on
the CPU goes first, so that the test itself is known to be right.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EPOCHS, STEPS_AN_EPOCH = 12, 3
TOTAL = EPOCHS * STEPS_AN_EPOCH
STOPS = [(2, "SIGKILL", 0, 0.0), (20, "SIGTERM", 0, 0.0)]
PHOTOGRAPHS: dict[str, list[str]] = {
    "cpu-dali": ["--run.device=cpu", "--data.decode=dali-cpu", "--view.augment=jitter-gray-blur"],
    "gpu-threads": ["--run.device=cuda", "--data.decode=cpu", "--run.compile=none"],
    "gpu-dali-no-engine": ["--run.device=cuda", "--data.decode=dali-gpu", "--dali.hardware_share=0"],
    "gpu-dali-engine": [
        *("--run.device=cuda", "--data.decode=dali-gpu", "--dali.hardware_share=1", "--run.compile=none"),
        "--view.augment=jitter-gray-blur",
    ],
}
"""By run: what is special. Only one on a GPU is compiled, to save the tests a minute."""
RunWithStops = Callable[[list[dict[str, Any]]], list[list[dict[str, Any]]]]
ResultOf = Callable[[Path], dict[str, Any]]


def compare(
    command: Callable[[Path], list[str]], parent: Path, run: RunWithStops, result_of: ResultOf
) -> None:
    """A run with stops against the same without."""
    folders = {"undisturbed": [], "stopped": STOPS}
    plans = [
        {"arguments": command(parent / name), "folder": str(parent / name), "ranks": 1, "stops": stops}
        for name, stops in folders.items()
    ]
    undisturbed, stopped = run(plans)
    said = [(parent / f"{name}.out").read_text() for name in folders]
    assert undisturbed == [{"statuses": [0], "step": TOTAL}], said[0]
    assert [start["statuses"] for start in stopped] == [[-signal.SIGKILL], [75], [0]], said[1]
    assert any(start["step"] % STEPS_AN_EPOCH for start in stopped), "within an epoch"
    ours, theirs = (result_of(parent / name) for name in folders)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.gpu if "gpu" in each else ()) for each in PHOTOGRAPHS]
)
def test_photographs(
    name: str,
    photograph_options: Callable[..., list[str]],
    tmp_path: Path,
    run_with_stops: RunWithStops,
    result_of: ResultOf,
) -> None:
    settings = ["--run.deterministic=true", "--checkpoint.minutes=1e-9", "--run.log_steps=2"]

    def command(folder: Path) -> list[str]:
        return photograph_options(folder, *settings, *PHOTOGRAPHS[name], epochs=EPOCHS)

    compare(command, tmp_path, run_with_stops, result_of)


@pytest.mark.gpu
def test_digits_by_a_graph(
    options: Callable[..., list[str]], tmp_path: Path, run_with_stops: RunWithStops, result_of: ResultOf
) -> None:
    """It is recorded again after each stop."""
    settings = ["--run.deterministic=true", "--checkpoint.minutes=1e-9", "--run.log_steps=2"]
    settings += ["--run.device=cuda", "--run.cuda_graph=true", "--run.compile=none"]

    def command(folder: Path) -> list[str]:
        return options(folder, *settings, "--optim.batch_size=128", epochs=EPOCHS)

    compare(command, tmp_path, run_with_stops, result_of)
