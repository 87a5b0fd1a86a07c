"""Nothing piles up over the epochs: threads, open files, child processes and memory, seen from outside."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

EPOCHS = 20
EARLY, LATE = range(3, 8), range(15, 20)
"""Epochs that are compared: after the warm-up, and 12 later."""
PROMPT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Makes malloc give memory back at once, without which the least that is held varies by 15 MB."""


@dataclass(frozen=True)
class Sample:
    """A look at the process."""

    epoch: int
    threads: int
    files: int
    children: int
    kilobytes: int


def look(pid: int, epoch: int) -> Sample:
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    tasks = list((process / "task").iterdir())
    children = sum(len((task / "children").read_text().split()) for task in tasks if task.exists())
    files = len(list((process / "fd").iterdir()))
    return Sample(epoch, int(status["Threads"]), files, children, int(status["RssAnon"].split()[0]))


@pytest.fixture(scope="module")
def samples(
    tmp_path_factory: pytest.TempPathFactory,
    options: Callable[..., list[str]],
    start_process: Callable[..., subprocess.Popen[str]],
) -> list[Sample]:
    """A run of 20 epochs, each trained, evaluated and saved."""
    folder = tmp_path_factory.mktemp("runs") / "growth"
    settings = ("--model.width=16", "--optim.batch_size=64", "--optim.lr=0.01")
    process = start_process(options(folder, *settings, method="ce", epochs=EPOCHS), **PROMPT_MALLOC)
    seen = []
    metrics = folder / "metrics.jsonl"
    epoch = 0
    while process.poll() is None and epoch < EPOCHS - 1:
        time.sleep(0.01)
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        epoch = 1 + max((json.loads(line)["epoch"] for line in lines if line.endswith("\n")), default=-1)
        try:
            seen.append(look(process.pid, epoch))
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread or the process has just ended
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert {sample.epoch for sample in seen} > {EARLY.start, LATE.start}
    return seen


def windows(samples: list[Sample], name: str) -> tuple[list[int], list[int]]:
    early, late = ([getattr(s, name) for s in samples if s.epoch in window] for window in (EARLY, LATE))
    assert len(early) > 20
    assert len(late) > 20
    return early, late


@pytest.mark.parametrize("name", ["threads", "files"])
def test_threads_and_open_files_stay_as_many(samples: list[Sample], name: str) -> None:
    """The least that was seen: a file that is being written is open for a moment."""
    early, late = windows(samples, name)
    assert min(late) == min(early)
    assert max(late) <= max(early) + 1


def test_no_process_is_started(samples: list[Sample]) -> None:
    early, late = windows(samples, "children")
    assert max(early + late) == 0


def test_memory_stays(samples: list[Sample]) -> None:
    """One copy of weights and momentum an epoch left behind would be 7.5 MB over these 12 epochs."""
    early, late = windows(samples, "kilobytes")
    assert min(late) - min(early) < 4000
