"""Children side by side: never more than slots, each with a slot of its own, ended by signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.user_error import UserError
from tools.child_processes import StopRequest, noted_signals, run_module, run_side_by_side, start_module

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(600)"


def test_jobs_share_slots_and_all_end_with_their_status() -> None:
    in_use: dict[int, subprocess.Popen[bytes]] = {}
    most = 0

    def start(job: int, slot: int) -> subprocess.Popen[bytes] | None:
        nonlocal most
        assert slot not in in_use or in_use[slot].poll() is not None
        if job == 3:
            return None  # nothing to do
        in_use[slot] = subprocess.Popen([sys.executable, "-c", f"import sys; sys.exit({job})"])
        most = max(most, sum(process.poll() is None for process in in_use.values()))
        return in_use[slot]

    ended = dict(run_side_by_side(range(7), start, 3, StopRequest([])))
    assert ended == {job: job for job in range(7) if job != 3}
    assert set(in_use) <= {0, 1, 2} and most <= 3


def test_first_request_is_sigterm_and_nothing_starts_after_it() -> None:
    stop, started = StopRequest([]), []

    def start(job: int, slot: int) -> subprocess.Popen[bytes]:
        started.append(job)
        if len(started) == 2:
            stop.signals.append(signal.SIGINT)
        return subprocess.Popen(SLEEPER)

    ended = list(run_side_by_side(range(5), start, 2, stop))
    assert started == [0, 1]
    assert sorted(ended) == [(0, -signal.SIGTERM), (1, -signal.SIGTERM)]


def test_second_request_kills() -> None:
    stop = StopRequest([])

    def start(job: int, slot: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        stop.signals.extend([signal.SIGTERM, signal.SIGTERM])
        return process

    assert list(run_side_by_side([0], start, 1, stop)) == [(0, -signal.SIGKILL)]


def test_two_signals_at_once_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with noted_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 0.9
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.signals == [signal.SIGTERM]
        now[0] += 1.1
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signals == [signal.SIGTERM, signal.SIGHUP]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_child_has_a_group_a_log_and_an_environment_of_its_own(tmp_path: Path) -> None:
    statement = f"while not os.path.exists({str(tmp_path / 'seen')!r}): time.sleep(0.01)"
    with (tmp_path / "log").open("wb") as log:
        process = start_module(
            "timeit", ["-n1", "-r1", "-s", "import os, time", statement], log, {"GRID_X": "5"}
        )
    assert os.getpgid(process.pid) == process.pid
    assert psutil.Process(process.pid).environ()["GRID_X"] == "5"
    (tmp_path / "seen").touch()
    assert process.wait(600) == 0
    assert "loop" in (tmp_path / "log").read_text()


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(UserError, match=r"python -m json.tool none ended with status 2; see above"):
        run_module("json.tool", ["none"])
