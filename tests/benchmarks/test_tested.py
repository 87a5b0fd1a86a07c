"""The plugin that writes the outcomes of tests: of real runs of pytest, one of them ended in its middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.results import read_json

ROOT = Path(__file__).resolve().parents[2]
SOME = """
import pytest, time
from pathlib import Path

def test_good(): pass
def test_bad(): assert False
def test_skipped(): pytest.skip("not here")

@pytest.fixture
def broken(): raise ValueError
def test_without_its_fixture(broken): pass

@pytest.fixture
def leaky():
    yield
    raise ValueError
def test_that_leaks(leaky): pass
"""
SLEEPER = """
def test_that_takes_its_time():
    Path("asleep").touch()
    time.sleep(600)
"""


def start(folder: Path, text: str) -> subprocess.Popen[bytes]:
    (folder / "test_some.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.tested", "--rows", "rows.json", "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "said.txt").open("wb") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said)


def outcomes(folder: Path) -> dict[tuple[str, str], float]:
    return {(row.name, row.metric): row.median for row in read_json(folder / "rows.json")["rows"]}


def test_outcomes_are_counted_and_failures_named(tmp_path: Path) -> None:
    assert start(tmp_path, SOME).wait(60) == 1
    assert outcomes(tmp_path) == {
        ("gpu-tests", "selected"): 5,
        ("gpu-tests", "passed"): 1,
        ("gpu-tests", "failed"): 3,
        ("gpu-tests", "skipped"): 1,
        ("test_some.py::test_bad", "failed"): 1,
        ("test_some.py::test_without_its_fixture", "failed"): 1,
        ("test_some.py::test_that_leaks", "failed"): 1,
    }


def test_a_file_that_cannot_be_imported_has_failed(tmp_path: Path) -> None:
    assert start(tmp_path, "import nothing_of_this_name").wait(60) == 2
    assert outcomes(tmp_path)["test_some.py", "failed"] == 1


def test_tests_that_were_killed_leave_what_they_had(tmp_path: Path) -> None:
    process = start(tmp_path, SOME + SLEEPER)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "asleep").exists():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = outcomes(tmp_path)
    assert found["tests", "unfinished"] == 1
    assert (found["gpu-tests", "passed"], found["gpu-tests", "failed"]) == (1, 3)
    assert found["gpu-tests", "selected"] == 6
    assert "def test_bad(): assert False" in (tmp_path / "said.txt").read_text(), "why, before the end"
