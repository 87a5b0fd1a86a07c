"""Run a program and watch how much memory it and its processes hold, the page cache left out."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 0.05
"""Between two looks, at least: each takes the kernel a few milliseconds."""
LOOKS = 200
"""The longer a program runs, the rarer they get: the next one is after this part of its time up to now."""
SECONDS_TO_END = 60
"""After SIGTERM: torchrun gives its workers half of that."""
PROPORTIONAL = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A program that has ended."""

    seconds: float
    """From its start, imports included."""
    cpu_seconds: float
    """User and system time of it and of those that it started and waited for."""
    peak_memory: float
    """MiB; what several processes share counts once."""


def run_watched(
    command: Sequence[str],
    *,
    look: Callable[[int], None] | None = None,
    quiet: bool = True,
) -> Watched:
    """Run `python` with these arguments in the project's folder, and watch it until it ends.

    Each time its memory is read, `look` is called with its process id. What it says is shown unless `quiet`. Ctrl-C
    ends it with SIGTERM, so torchrun ends its workers.

    Raises:
        RuntimeError: it failed; its last words are in the message, where they were not shown.
    """
    start, cpu_before = time.perf_counter(), _cpu_seconds_of_children()
    # a session of its own: Ctrl-C comes to us alone, and reaches it as one signal, not as two
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        start_new_session=True,
    )
    most = 0.0
    try:
        while True:
            try:
                elapsed = time.perf_counter() - start
                output, _ = process.communicate(timeout=max(SECONDS, elapsed / LOOKS))
                break
            except subprocess.TimeoutExpired:
                most = max(most, _memory_of_all(process.pid))
                if look is not None:
                    look(process.pid)
    finally:
        _end(process)
    if process.returncode:
        words = f": {output[-2000:]}" if quiet else ""
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}{words}")
    return Watched(
        seconds=time.perf_counter() - start,
        cpu_seconds=_cpu_seconds_of_children() - cpu_before,
        peak_memory=most,
    )


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _end(process: subprocess.Popen[str]) -> None:
    """End the process if it still runs, and those that it started."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        for pid in list(processes_of(process.pid)):  # torchrun's workers are in sessions of their own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it left behind in its session


def processes_of(pid: int) -> Iterator[int]:
    """The process and all that descend from it."""
    yield pid
    try:
        children = [
            int(child)
            for path in Path(f"/proc/{pid}/task").glob("*/children")
            for child in path.read_text(encoding="ascii").split()
        ]
    except OSError:  # it has just ended
        return
    for child in children:
        yield from processes_of(child)


def _memory_of_all(pid: int) -> float:
    """MiB of the process and all that descend from it, 0 where one of them has started or ended meanwhile.

    A page that two of them shared would then count whole in one, as its only holder, and again in the other.
    """
    before = list(processes_of(pid))
    memory = sum(map(_memory, before))
    return memory if list(processes_of(pid)) == before else 0.0


def _memory(pid: int) -> float:
    """MiB of a process's own: anonymous and shared memory, each page divided by how many processes hold it."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return sum(map(int, PROPORTIONAL.findall(text))) / 1024
