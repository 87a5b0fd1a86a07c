"""Run a program and watch how much memory it and its processes hold, the page cache left out."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 0.05
"""Between two looks: each takes the kernel a few milliseconds."""
PROPORTIONAL = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A program that has ended."""

    seconds: float
    """From its start, imports included."""
    peak_memory: float
    """MiB; what several processes share counts once."""


def run_watched(command: Sequence[str]) -> Watched:
    """Run `python` with these arguments in the project's folder, and watch it until it ends.

    Raises:
        RuntimeError: it failed; its last words are in the message.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    most = 0.0
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=SECONDS)
                break
            except subprocess.TimeoutExpired:
                most = max(most, sum(map(_memory, _tree(process.pid))))
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output[-2000:]}")
    return Watched(seconds=time.perf_counter() - start, peak_memory=most)


def _tree(pid: int) -> Iterator[int]:
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
        yield from _tree(child)


def _memory(pid: int) -> float:
    """MiB of a process's own: anonymous and shared memory, each page divided by how many processes hold it."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return sum(map(int, PROPORTIONAL.findall(text))) / 1024
