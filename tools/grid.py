"""Train many configurations side by side, one a GPU or several on the CPU, and say in one table what they reach.

    python tools/grid.py --config configs/digits_lt_glmc.yaml --seeds 0,1,2 --vary optim.lr=0.05,0.1 --out runs/lr

Every run is a `python -m training.train` of its own in a folder of its own under --out. The same command again
goes on: finished runs are read, unfinished ones continued, failed ones tried once more. Ctrl-C lets the runs
save and ends them. Two machines with one --out share the work: a run that another process is at is left to it, and
looked at once more when all others have ended.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from pipelines.thread_pool import available_cpus
from pipelines.user_error import UserError, run_command
from tools.child_processes import StopRequest, noted_signals, run_side_by_side, start_module
from tools.compare_runs import percent
from tools.grid_runs import GridRun, plan_runs
from tools.grid_table import grid_table, rows_of, write_rows
from tools.seed_statistics import parse_seeds
from training.run_lock import NO_LOCKS
from training.run_record import read_run
from training.stop_signals import INTERRUPTED, REQUEUE

LAST_WORDS = 8192
"""Bytes of a log's end in which to look for the reason of a failure."""


@dataclass
class Progress:
    """Starts runs and tells of them."""

    total: int
    slots: list[dict[str, str]]
    """Environment of what runs in each slot."""
    begun: dict[str, float] = field(default_factory=dict)
    failed: list[GridRun] = field(default_factory=list)
    left: list[GridRun] = field(default_factory=list)
    """To another process, which is at them."""

    def go(self, runs: Sequence[GridRun], stop: StopRequest) -> None:
        """Train the runs, those that are left to another process once more at the end: it may have been stopped."""
        for queue in (runs, self.left):
            waiting = list(queue)
            for ended, status in run_side_by_side(waiting, self.start, len(self.slots), stop):
                self.ended(ended, status)

    def start(self, run: GridRun, slot: int) -> subprocess.Popen[bytes] | None:
        """Start a run unless another process is at it, or has finished it since."""
        try:
            log = run.log.open("ab")
        except OSError as error:  # the others go on
            self.failed.append(run)
            print(f"{run.name}: FAILED: {run.log} cannot be written ({error.strerror})", flush=True)
            return None
        with log:
            if not _is_locked(log):
                if run not in self.left:
                    self.left.append(run)
                    print(f"{run.name}: left to another process, which is at it", flush=True)
                return None
            if run in self.left:
                self.left.remove(run)
            if run.is_finished:
                return None
            print(f"{run.name}: begins{self._where(slot)}", flush=True)
            self.begun[run.name] = time.monotonic()
            return start_module("training.train", run.arguments, log, self.slots[slot])

    def ended(self, run: GridRun, status: int) -> None:
        """Say how a run ended."""
        minutes = (time.monotonic() - self.begun[run.name]) / 60
        if status == 0:
            accuracy = read_run(run.folder.path).summary["accuracy"]
            print(f"{run.name}: all {percent(accuracy['all'])} %, {minutes:.1f} minutes", flush=True)
        elif status in (REQUEUE, -signal.SIGTERM):
            print(f"{run.name}: stopped; the same command continues it", flush=True)
        else:
            self.failed.append(run)
            print(f"{run.name}: FAILED with status {status}: {last_words(run.log)} ({run.log})", flush=True)

    def _where(self, slot: int) -> str:
        device = self.slots[slot].get("CUDA_VISIBLE_DEVICES")
        return f" on GPU {device}" if device else ""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 1 if some runs failed, 0 if none is left but to other processes."""
    return run_command("fasttail-grid", lambda: run(arguments))


def run(arguments: list[str] | None) -> int:
    """Check everything, train, print the table."""
    options = _parser().parse_args(arguments)
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: give 1 or more")
    runs = plan_runs(options.config, options.vary, parse_seeds(options.seeds), options.settings, options.out)
    on_gpu = any(each.config.run.device != "cpu" for each in runs) and torch.cuda.is_available()
    progress = Progress(len(runs), slots_for(visible_gpus() if on_gpu else [], options.jobs))
    unfinished = [each for each in runs if not each.is_finished]
    print(f"{len(runs)} runs, {len(runs) - len(unfinished)} finished before, {len(progress.slots)} at once")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {options.out}: cannot be written ({error.strerror}); choose another"
        ) from None
    with noted_signals() as stop:
        progress.go(unfinished, stop)
    rows = rows_of(runs)
    write_rows(rows, options.out / "rows.json")
    cells = list(dict.fromkeys(each.cell for each in runs))
    print("\n" + grid_table(cells, rows))
    print(f"Rows: {options.out / 'rows.json'}")
    return exit_status(progress, runs, stop.signals)


def _is_locked(log: BinaryIO) -> bool:
    """Whether the run is this process's own now; so it is where the file system has no locks."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def exit_status(progress: Progress, runs: Sequence[GridRun], signals: Sequence[int]) -> int:
    """Say what is not finished and return the status of the command."""
    if progress.left:
        names = ", ".join(run.name for run in progress.left)
        print(f"Left to other processes: {names}; the same command reads them when those have ended")
    if progress.failed:
        print(f"{len(progress.failed)} of {len(runs)} runs failed")
        return 1
    if signals:
        print("Stopped; the same command goes on")
        return INTERRUPTED if signals[0] == signal.SIGINT else REQUEUE
    return 0


def slots_for(gpus: Sequence[str], jobs: int | None) -> list[dict[str, str]]:
    """Return the environment of each of the runs that are side by side: its GPU and its share of the threads.

    A run a GPU, or one on the CPU, unless `jobs` says otherwise; more runs than GPUs share them in turn.
    """
    count = jobs or max(1, len(gpus))
    threads = max(1, available_cpus() // count)
    shared = {
        "LOCAL_WORLD_SIZE": str(count),  # of which available_cpus() makes the share of each
        "TQDM_MININTERVAL": "60",  # seconds between two lines of a progress bar that nobody watches
    }
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(threads)
    return [
        {**shared, **({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})}
        for slot in range(count)
    ]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    CUDA takes what is named up to the first that does not exist, so the first ones are those that it counts.
    """
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(i) for i in range(count)]


def last_words(log: Path) -> str:
    """Return the last line of a log that says something."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_WORDS))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fasttail-grid", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", action="append", required=True, metavar="FILE", help="YAML file; several are an axis")
    add("--seeds", default="0", metavar="0,1,2", help="seeds of every configuration (default: 0)")
    add(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=A,B",
        help="a setting and its values; several are combined, each with each",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="holds a folder a run, and rows.json")
    add("--jobs", type=int, metavar="N", help="runs at once (default: one a GPU, or 1 without one)")
    add("settings", nargs="*", metavar="-- --NAME=VALUE", help="settings that all runs have in common")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
