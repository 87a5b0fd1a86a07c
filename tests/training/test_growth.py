"""Nothing piles up over the epochs: threads, open files, child processes and memory, seen from outside."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
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
    """A look at the process, which waits for it."""

    threads: int
    files: int
    kilobytes: int
    children: int
    """Processes that were seen since the look before."""


def look(pid: int, children: set[str]) -> Sample:
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    files = len(list((process / "fd").iterdir()))
    return Sample(int(status["Threads"]), files, int(status["RssAnon"].split()[0]), len(children))


def children_of(pid: int) -> set[str]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= set((task / "children").read_text().split())
    return found


@pytest.fixture(scope="module", params=["pixels", "jpegs"])
def samples(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    options: Callable[..., list[str]],
    photograph_options: Callable[..., list[str]],
    start_process: Callable[..., subprocess.Popen[str]],
) -> list[Sample]:
    """A run of 20 epochs, each trained, evaluated and saved: of digits, or of decoded and mixed photographs."""
    folder, looks = tmp_path_factory.mktemp("runs") / "growth", tmp_path_factory.mktemp("looks")
    settings = ("--model.width=16", "--optim.lr=0.01", "--checkpoint.minutes=1000")
    if request.param == "pixels":
        command = options(folder, *settings, method="ce", epochs=EPOCHS)
    else:
        command = photograph_options(folder, *settings, "--view.augment=jitter-gray-blur", epochs=EPOCHS)
    process = start_process([str(looks), *command], module=("tests.training.looked_at_run",), **PROMPT_MALLOC)
    seen: list[Sample] = []
    for epoch in range(EPOCHS):
        deadline, children = time.monotonic() + 600, set[str]()
        while not (looks / str(epoch)).exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
            children |= children_of(process.pid)
        seen.append(look(process.pid, children))
        (looks / str(epoch)).unlink()
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return seen


def windows(samples: list[Sample], name: str) -> tuple[list[int], list[int]]:
    early, late = ([getattr(samples[epoch], name) for epoch in window] for window in (EARLY, LATE))
    return early, late


def test_threads_stay_as_many(samples: list[Sample]) -> None:
    early, late = windows(samples, "threads")
    assert set(early) == set(late)
    assert len(set(early)) == 1


def test_open_files_stay_as_many(samples: list[Sample]) -> None:
    """The least that was seen: TensorBoard's thread opens its file for a moment, whenever it writes."""
    early, late = windows(samples, "files")
    assert min(early) == min(late)


def test_no_process_is_started(samples: list[Sample]) -> None:
    early, late = windows(samples, "children")
    assert max(early + late) == 0


def test_memory_stays(samples: list[Sample]) -> None:
    """One copy of weights and momentum an epoch left behind would be 7.5 MB over these 12 epochs."""
    early, late = windows(samples, "kilobytes")
    assert min(late) - min(early) < 4000
