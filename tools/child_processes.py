"""Commands of this project as processes of their own: one after the other, or many side by side.

Children that run side by side are kept from the terminal's Ctrl-C: each gets one SIGTERM, from here, and has the time
to save. Not SIGINT, which Python makes an exception, and numba, whose compiler calls back into Python, swallows it. If
this process is killed, the kernel sends the SIGTERM.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TypeVar

from pipelines.user_error import UserError

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.05
ONE_REQUEST_SECONDS = 1.0
"""Signals that come so soon after another are the same request: `timeout` and some batch systems send two."""
PR_SET_PDEATHSIG = 1

Job = TypeVar("Job")


def module_command(module: str, arguments: Sequence[str]) -> list[str]:
    """What runs a module with this Python."""
    return [sys.executable, "-m", module, *arguments]


def run_module(module: str, arguments: Sequence[str]) -> None:
    """Run a command of this project; its errors and progress show, what else it says is in its folder.

    Raises:
        KeyboardInterrupt: it was interrupted.
        UserError: it failed.
    """
    status = subprocess.run(
        module_command(module, arguments), stdout=subprocess.DEVNULL, check=False
    ).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status != 0:
        raise UserError(f"python -m {module} {' '.join(arguments)} ended with status {status}; see above")


def start_module(
    module: str, arguments: Sequence[str], output: BinaryIO, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a module in a group of its own, where Ctrl-C does not reach it; what it says goes to `output`.

    The child holds `output` open, and with it any lock on that file, as long as it lives.
    """
    libc, parent = ctypes.CDLL(None), os.getpid()

    def end_with_parent() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before the kernel knew
            os._exit(1)

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        module_command(module, arguments),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path, **environment},
        process_group=0,
        preexec_fn=end_with_parent,
    )


@dataclass
class StopRequest:
    """Signals that asked to stop, in the order in which they came."""

    signals: list[int]

    def __bool__(self) -> bool:
        return bool(self.signals)


@contextmanager
def noted_signals() -> Iterator[StopRequest]:
    """Inside the context Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 are only noted."""
    request = StopRequest([])
    latest = float("-inf")

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal latest
        now = time.monotonic()
        if now - latest > ONE_REQUEST_SECONDS:
            request.signals.append(number)
        latest = now

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_side_by_side(
    jobs: Sequence[Job],
    start: Callable[[Job, int], subprocess.Popen[bytes] | None],
    slots: int,
    stop: StopRequest,
) -> Iterator[tuple[Job, int]]:
    """Run jobs, at most `slots` at once, and give each with its exit status when it has ended.

    `start(job, slot)` starts one, slot in [0, slots), or returns None where there is nothing to do. After a request to
    stop no job is started, and those that run get SIGTERM; after a second one they are killed.
    """
    waiting, running = list(jobs), dict[int, tuple[Job, subprocess.Popen[bytes]]]()
    passed_on = 0
    try:
        while running or (waiting and not stop):
            while waiting and not stop and len(running) < slots:
                slot = min(set(range(slots)) - running.keys())
                job = waiting.pop(0)
                process = start(job, slot)
                if process is not None:
                    running[slot] = (job, process)
            while passed_on < len(stop.signals):
                for _, process in running.values():
                    process.send_signal(signal.SIGKILL if passed_on else signal.SIGTERM)
                passed_on += 1
            for slot, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    yield job, process.returncode
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in running.values():
            process.kill()
            process.wait()
