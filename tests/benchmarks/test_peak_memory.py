"""Watching a program: memory and CPU time with its children, failures, and an end that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.peak_memory import processes_of, run_watched

REPOSITORY = Path(__file__).resolve().parents[2]
CHILD = """
import os, sys, time
held = bytearray(b"x") * (64 << 20)
open(sys.argv[1], "x").close()
while os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""
CHILD_WITH_MEMORY = f"""
import subprocess, sys
held = bytearray(b"x") * (96 << 20)
subprocess.run([sys.executable, "-c", {CHILD!r}, sys.argv[1]], check=True)
"""
SLEEPER = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1], os.environ.get("LOCAL_RANK", "0")).touch()
time.sleep(600)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
WATCH = "import sys; from benchmarks.peak_memory import run_watched; run_watched(sys.argv[1:])"


def test_memory_of_a_program_and_its_child(tmp_path: Path) -> None:
    """The child holds its memory until it has been looked at twice, so once from beginning to end."""
    pids, looks, held = set[int](), 0, tmp_path / "held"

    def look(pid: int) -> None:
        nonlocal looks
        pids.update(processes_of(pid))
        looks += held.exists()
        if looks == 2:
            held.unlink(missing_ok=True)

    watched = run_watched(["-c", CHILD_WITH_MEMORY, str(held)], look=look)
    assert 160 <= watched.peak_memory < 260
    assert watched.seconds > 0.1
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_cpu_seconds_are_those_of_the_work() -> None:
    busy = "import time\nwhile time.process_time() < 1: pass"
    assert 1 <= run_watched(["-c", busy]).cpu_seconds < 1.8
    assert run_watched(["-c", "import time; time.sleep(1)"]).cpu_seconds < 0.8


def test_a_failure_is_told_with_the_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["-c", "print('so far'); raise SystemExit('no further')"]
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1: .*no further"):
        run_watched(words)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError, match=r"ended with 1$"):
        run_watched(words, quiet=False)
    assert capfd.readouterr() == ("so far\n", "no further\n")


@pytest.mark.parametrize(
    ("before", "sleepers"), [(("-c", PARENT), 1), (TORCHRUN, 2)], ids=["plain", "torchrun"]
)
def test_ctrl_c_ends_the_program_and_its_children(
    before: tuple[str, ...], sleepers: int, tmp_path: Path
) -> None:
    script, started = tmp_path / "sleeper.py", tmp_path / "started"
    script.write_text(SLEEPER)
    started.mkdir()
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCH, *before, str(script), str(started)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
    )
    while len(list(started.iterdir())) < sleepers:
        assert watcher.poll() is None
        time.sleep(0.01)
    family = psutil.Process(watcher.pid).children(recursive=True)
    assert len(family) == 1 + sleepers
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(600) != 0
    _, alive = psutil.wait_procs(family, timeout=300)
    assert not alive
