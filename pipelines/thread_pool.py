"""Plain threads for functions that release the GIL: JPEG decoding, PyTorch operators, numba with nogil.

Threads, not processes: the views are written straight into the batch, and nothing is pickled or copied. Not
numba's prange either, whose `workqueue` layer must not be entered from two threads at once.

Each thread runs PyTorch operators on itself alone (one intra-op thread): n threads that each asked for n more
would fight over the cores.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def available_cpus() -> int:
    """Return how many threads this process should run: its share of the CPUs that it may use, at least 1.

    torchrun tells the number of processes on this machine as `LOCAL_WORLD_SIZE`; without it there is one.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return cpu_share(len(os.sched_getaffinity(0)), cgroup_quota(), processes)


def cpu_share(affinity: int, quota: float | None, processes: int) -> int:
    """Return min(CPUs of the affinity mask, the cgroup's quota rounded up) // processes, at least 1."""
    cpus = affinity if quota is None else min(affinity, math.ceil(quota))
    return max(1, cpus // processes)


def cgroup_quota(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Return the CPUs that the process's control groups grant, or None where they set no limit.

    The lowest limit of a group and its parents counts (version 2: `cpu.max`; version 1: `cpu.cfs_quota_us`
    over `cpu.cfs_period_us`). Inside a container the path of the group may be the host's and so be missing
    under `mount`; then the parents that are there are read, `mount` itself last.
    """
    if not membership.is_file():
        return None
    quotas = []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mount / "cpu", mount / controllers]
        else:
            continue
        group = Path(path.lstrip("/"))
        for root in roots:
            quotas += [_group_quota(root / parent) for parent in (group, *group.parents)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _group_quota(folder: Path) -> float | None:
    """Return the CPUs that one control group grants, or None where it sets no limit."""
    unified = folder / "cpu.max"
    if unified.is_file():
        quota, period = unified.read_text().split()
    elif (folder / "cpu.cfs_quota_us").is_file():
        quota = (folder / "cpu.cfs_quota_us").read_text().strip()
        period = (folder / "cpu.cfs_period_us").read_text().strip()
    else:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


class ThreadPool:
    """Threads that run until `close()`, which leaves none behind; also a context manager.

    Do not wait for a task of the pool inside another task of the same pool: all threads could be waiting.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = available_cpus() if threads is None else threads
        """How many there are; by default `available_cpus()`."""
        assert self.threads > 0
        # PyTorch also keeps, for the whole process, the number that a thread takes over when it first runs an
        # operator. Setting a worker's number overwrites that too, so it is read before and put back after.
        process_wide = torch.get_num_threads()
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="fasttail")
        all_started = threading.Barrier(self.threads)
        wait([self._executor.submit(_use_one_thread, all_started) for _ in range(self.threads)])
        torch.set_num_threads(process_wide)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `function` in one of the threads; the future holds its result or its exception."""
        return self._executor.submit(function, *args, **kwargs)

    def submit_slices(self, function: Callable[[int, int], None], n: int, chunk: int) -> list[Future[None]]:
        """Run `function(start, stop)` in the threads for the slices of `chunk` of range(n)."""
        return [self.submit(function, start, min(start + chunk, n)) for start in range(0, n, chunk)]

    def map_slices(self, function: Callable[[int, int], None], n: int, chunk: int) -> None:
        """Run `function(start, stop)` for the slices of `chunk` of range(n), and wait for all of them.

        All slices have ended when this returns or raises: nothing writes into the caller's arrays any more.
        Of several exceptions the one of the first slice is raised.
        """
        futures = self.submit_slices(function, n, chunk)
        wait(futures)
        for future in futures:
            future.result()

    def close(self) -> None:
        """Drop what has not begun, wait for what has, and end the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _use_one_thread(all_started: threading.Barrier) -> None:
    """Give this thread one intra-op thread; wait for the others, so that each thread runs this once."""
    torch.get_num_threads()  # takes over the process's number now, so that it does not come later
    torch.set_num_threads(1)
    all_started.wait()
