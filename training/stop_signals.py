"""What a signal asks for: finish the step, save, leave. On several ranks all save and stop after the same step.

A batch system warns a job that it is to make room for another (Slurm: SIGTERM, or the signal of `--signal`), maybe on
one node only. Each rank looks at its own signals, and every few steps the ranks begin a sum of what they saw, which
they read a few steps later, when it has long arrived: nobody waits for it, and all read the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType, TracebackType
from typing import NoReturn, Self

from training.process_group import ProcessGroup

REQUEUE = 75
"""Exit status of a run that was told to make room and is to be started again (EX_TEMPFAIL of sysexits.h)."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
SAVE = 1
"""Not an exit status: save, and go on. Smaller than those, so the largest wish of all ranks is the one that counts."""
STEPS_A_VOTE = 4
"""Between two sums over ranks: the ranks' hosts cannot drift further apart, and a stop takes twice as long at most."""

STATUS = {signal.SIGTERM: REQUEUE, signal.SIGUSR1: REQUEUE, signal.SIGINT: INTERRUPTED}


@contextmanager
def leave_at_once() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 end the process with `REQUEUE`: before and after the steps nothing is to be saved.

    Without Python's clean-up. Every file is written whole or not at all, and an exception that a handler raises gets
    lost where it comes in a destructor.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        name = signal.Signals(number).name
        with suppress(OSError):  # a terminal that is gone
            os.write(2, f"{name}: nothing had to be saved; the same command goes on\n".encode())
        os._exit(STATUS[signal.Signals(number)])

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class StopSignals(AbstractContextManager["StopSignals"]):
    """Inside the context the signals of `STATUS` are only noted; a second Ctrl-C interrupts at once."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._noted = 0
        self._vote: Callable[[], int] | None = None
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in STATUS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._vote is not None and error is None:
            self._vote()  # all ranks have begun it, and none leaves before it has ended

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = max(self._noted, STATUS[signal.Signals(number)])
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def asked(self, done: int, *, save: bool) -> int:
        """What to do after step `done`, the same on all ranks; called once a step.

        0 to go on, `SAVE`, or the exit status to save and stop with. `save`: whether this rank wants to save.
        """
        if self._group.world_size == 1:
            return max(self._noted, SAVE * save)
        if done % STEPS_A_VOTE:
            return 0
        decided = self._vote() if self._vote is not None else 0
        wish = SAVE * (save and not decided)  # what is done now need not be asked for again
        self._vote = self._group.begin_maximum(max(self._noted, wish))
        return decided
