"""Checkpoints are written beside the training: it only copies its tensors, a thread does the rest.

The files are `checkpoints/step_NNNNNNNN.pt`, of which the newest few are kept, and two more names: `last.pt` for the
newest and `best.pt` for that of the best epoch. On most file systems a name costs no room.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import torch

from pipelines.whole_file import PARTIAL, bring_to_disk
from training.checkpoint import Checkpoint, give_name, save_checkpoint
from training.disk_errors import disk_errors
from training.run_folder import RunFolder

SECONDS_A_MINUTE = 60


class CheckpointWriter:
    """Writes one checkpoint at a time; what goes wrong is raised at the next call."""

    def __init__(self, folder: RunFolder, *, minutes: float, keep: int, first_step: int) -> None:
        self._folder = folder
        self._minutes = minutes
        self._keep = keep
        # files beyond the step that the run goes on from could not be read, or belong to a history that is no more
        self._stale = [path for step, path in folder.of_steps().items() if step > first_step]
        # of a process that was killed while it wrote
        for unfinished in folder.checkpoints.glob(f".*{PARTIAL}"):
            unfinished.unlink()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._last_save = time.monotonic()

    def is_due(self) -> bool:
        """Whether the latest checkpoint is older than `minutes`; raises the error of a write that failed."""
        if self._writing is not None and self._writing.done():
            self._finish_write()
        return (
            self._writing is None and time.monotonic() - self._last_save >= SECONDS_A_MINUTE * self._minutes
        )

    def save(self, checkpoint: Checkpoint, *, is_best: bool) -> None:
        """Copy the tensors and have them written; waits where the write before has not ended yet."""
        self._finish_write()
        on_device, copied = copy_of(checkpoint)
        self._writing = self._thread.submit(self._write, on_device, copied, is_best)
        self._last_save = time.monotonic()

    def wait(self) -> None:
        """Return once everything is on the disk."""
        self._finish_write()

    def close(self) -> None:
        """End the thread, after the write that may be in progress; its error is left to `wait`."""
        self._thread.shutdown(wait=True)

    def _finish_write(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, checkpoint: Checkpoint, copied: torch.cuda.Event | None, is_best: bool) -> None:
        if copied is not None:
            checkpoint = on_host(checkpoint, copied)
        log = self._folder.metrics
        with disk_errors(log, "the log"), suppress(FileNotFoundError), log.open("ab") as metrics:
            bring_to_disk(metrics)  # the log never ends before the checkpoint
        path = self._folder.of_step(checkpoint.step)
        self._stale = [each for each in self._stale if each != path]
        save_checkpoint(checkpoint, path)
        if is_best:  # before the name that a run goes on from: it would not come back to this epoch
            give_name(path, self._folder.best)
        give_name(path, self._folder.last)
        of_this_history = [each for each in self._folder.of_steps().values() if each not in self._stale]
        for superfluous in {*self._stale, *of_this_history[self._keep :]}:
            superfluous.unlink(missing_ok=True)
        self._stale = []


def copy_of(checkpoint: Checkpoint) -> tuple[Checkpoint, torch.cuda.Event | None]:
    """A checkpoint whose tensors are its own, each on its device, and on a GPU an event after the copies.

    Takes the memory of the weights and the optimizer's state once more, until it is written.
    """
    copy = _with_tensors(checkpoint, torch.Tensor.clone)
    if not any(tensor.is_cuda for tensor in checkpoint.model.values()):
        return copy, None
    copied = torch.cuda.Event()
    copied.record()
    return copy, copied


def on_host(checkpoint: Checkpoint, copied: torch.cuda.Event) -> Checkpoint:
    """The same in the host's memory, on a stream of its own, so that the copies do not queue up with the steps."""
    device = next(iter(checkpoint.model.values())).device
    stream = torch.cuda.Stream(device)
    stream.wait_event(copied)
    with torch.cuda.stream(stream):
        return _with_tensors(checkpoint, torch.Tensor.cpu)


def _with_tensors(checkpoint: Checkpoint, function: Any) -> Checkpoint:
    def changed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return function(value.detach())
        if isinstance(value, dict):
            return {key: changed(each) for key, each in value.items()}
        return [changed(each) for each in value] if isinstance(value, list) else value

    return replace(
        checkpoint, **{each.name: changed(getattr(checkpoint, each.name)) for each in fields(checkpoint)}
    )
