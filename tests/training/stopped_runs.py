"""Start runs again and again, stop them each time with a signal, then let them end: a script that tests call.

    python -m tests.training.stopped_runs '[{"arguments": [...], "folder": "...", "ranks": 1, "port": 12345,
                                             "stops": [[7, "SIGKILL", 0, 0.01]]}]'

A stop is [step, signal, rank that gets it, seconds after the first checkpoint of that step or a later one]; a few steps
later the run waits for it, however late this process is. The processes are forked from this one, which has imported
everything and runs no thread, so a start takes no time. Prints
a JSON list a run, an entry for each stop that came before the end and one for the end: `statuses`, the exit status of
each rank (negative for a signal), and `step` of the newest checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import torch

from tests.training.held_run import hold
from training.train import main

SECONDS = 600.0
"""For one start: more than it takes on any machine."""
STEPS_TO_COME = 8
"""Between the step of a stop and the one after which the run waits: two ranks save after the second vote from there."""

Stop = tuple[int, str, int, float]


def newest(folder: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    names = [re.fullmatch(r"step_(\d+)\.pt", path.name) for path in folder.glob("checkpoints/*")]
    return max((int(name[1]) for name in names if name), default=0)


def start(arguments: list[str], ranks: int, port: int, stop: Stop | None, output: Path) -> list[int]:
    """Fork the ranks of a run; the environment is what torchrun would give them."""
    pids = []
    for rank in range(ranks):
        if pid := os.fork():
            pids.append(pid)
            continue
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with this script
        with output.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if ranks > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            os.environ.update({name: str(value) for name, value in names.items()})
            os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
        torch.set_num_threads(1)
        if stop is not None and rank == stop[2]:
            hold(stop[0] + STEPS_TO_COME)
        sys.exit(main(arguments))
    return pids


def stopped(pids: list[int], stop: Stop | None, folder: Path) -> list[int]:
    """Exit statuses of the ranks, one of which gets the signal of `stop` if it is not over by then."""
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + SECONDS
    while len(statuses) < len(pids):
        assert time.monotonic() < deadline, f"no end of {set(pids) - statuses.keys()} after {stop}"
        if stop is not None and not statuses and newest(folder) >= stop[0]:
            time.sleep(stop[3])
            os.kill(pids[stop[2]], signal.Signals[stop[1]])
            stop = None
        for pid in set(pids) - statuses.keys():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return [statuses[pid] for pid in pids]


def run(plan: dict[str, object]) -> list[dict[str, object]]:
    """Make the starts of one run."""
    arguments, folder = plan["arguments"], Path(str(plan["folder"]))
    assert isinstance(arguments, list) and isinstance(plan["stops"], list) and isinstance(plan["ranks"], int)
    assert isinstance(plan["port"], int)
    seen: list[dict[str, object]] = []
    for stop in [*plan["stops"], None]:
        pids = start(arguments, plan["ranks"], plan["port"], stop, folder.with_suffix(".out"))
        try:
            seen.append({"statuses": stopped(pids, stop, folder), "step": newest(folder)})
        except BaseException:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            raise
        if seen[-1]["statuses"] == [0] * plan["ranks"]:
            break
    return seen


if __name__ == "__main__":
    print(json.dumps([run(plan) for plan in json.loads(sys.argv[1])]))
