"""Two trainings of one folder: real processes, of which only one writes."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import training.run_lock
from pipelines.user_error import UserError
from training.run_lock import locked_folder

HOLDER = """
import sys
from pathlib import Path
from training.run_lock import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
Start = Callable[..., subprocess.Popen[str]]
Options = Callable[..., list[str]]


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that has the lock until its standard input is closed."""
    command, pipe = [sys.executable, "-c", HOLDER, str(folder)], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_training_of_a_folder_is_refused_and_writes_nothing(
    ranks: int, tmp_path: Path, options: Options, start_process: Start
) -> None:
    with hold(tmp_path) as first:
        before = content(tmp_path)
        torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training.train")
        module = ("training.train",) if ranks == 1 else torchrun
        second = start_process(options(tmp_path, "--run.device", "cpu", "--restart"), module=module)
        said, complained = second.communicate(timeout=600)
        assert content(tmp_path) == before
        first.kill()
    sentences = [line for line in complained.splitlines() if "fasttail-train" in line]
    assert len(sentences) == 1 and said == "", complained
    who = f"process {first.pid} on {re.escape(socket.gethostname())}, since 20.* UTC"
    name = (
        "fasttail-train"
        if ranks == 1
        else f"fasttail-train, rank 0 of 2 on {re.escape(socket.gethostname())}"
    )
    pattern = (
        f".*{name}: run.folder {tmp_path}: {who}, trains in it; wait for it, end it, or choose another .*"
    )
    assert re.fullmatch(pattern, sentences[0])
    if ranks == 1:
        assert second.returncode == 2 and len(complained.splitlines()) == 1
    else:
        assert "exitcode  : 2" in complained, (
            "rank 0's; torchrun ends the other one, if it is not over by then"
        )
        assert complained.count("Traceback") == 1, "torchrun's own"


def test_two_that_start_at_once_leave_one_run(tmp_path: Path, options: Options, start_process: Start) -> None:
    """However late one of them comes: by itself the other would not end."""
    both = [start_process(options(tmp_path, epochs=100_000)) for _ in range(2)]
    wait_until(lambda: any(process.poll() is not None for process in both))
    [loser] = [process for process in both if process.poll() is not None]
    [winner] = [process for process in both if process is not loser]
    assert loser.returncode == 2 and f"process {winner.pid} on" in loser.communicate()[1]
    wait_until((tmp_path / "metrics.jsonl").exists)  # until then SIGTERM ends it at once
    winner.send_signal(signal.SIGTERM)
    _, complained = winner.communicate(timeout=600)
    assert winner.returncode == 75, complained


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigkill_frees_it_and_a_restart_waits_for_a_process_that_is_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is told to end when the lock has been refused three times, so it is waited for."""
    monkeypatch.setattr(training.run_lock, "PATIENCE", 600.0)
    with hold(tmp_path) as killed:
        killed.send_signal(signal.SIGKILL)
    flock, refused = fcntl.flock, []

    def noting(descriptor: int, operation: int) -> None:
        try:
            flock(descriptor, operation)
        except BlockingIOError:
            refused.append(operation)
            if len(refused) == 3:
                assert ending.stdin is not None
                ending.stdin.close()
            raise

    with hold(tmp_path) as ending:
        monkeypatch.setattr(fcntl, "flock", noting)
        with locked_folder(tmp_path):
            assert len(refused) >= 3
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        assert ending.wait() == 0
    with locked_folder(tmp_path):  # its end gives it back, in the same process too
        pass


def test_a_file_system_without_locks_is_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the kernel's answer there: no such file system is at hand."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match=r"without locks \(No locks available\)") as warned,
        locked_folder(tmp_path),
    ):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert len(warned) == 1


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"none/\.lock: cannot be opened \(No such file"),
        locked_folder(tmp_path / "none"),
    ):
        pass
