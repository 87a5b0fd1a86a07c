"""A feed in a process of its own: its threads, its settings and its crashes are its own too.

Between its runs the process and those that it started are stopped (SIGSTOP), so that several feeds can take turns: one
that goes on preparing batches would take cores from the next, and have them ready for its own next run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.feed import Feed
from benchmarks.photographs import Photographs, photographs_in

PATIENCE = 180.0
"""Seconds to wait for an answer: FFCV compiles for some, a DataLoader forks; a feed that hangs is ended."""

PRELOADED = ["benchmarks.our_feeds", "torchvision"]
"""Imported by the server that the processes are forked from; neither starts a thread."""

Opener = Callable[[Photographs, int, int], Feed]


class FeedError(Exception):
    """A feed that cannot be measured here; the message is the reason."""


class IsolatedFeed:
    """A feed in a process of its own; `close()` ends it, and so does leaving it as a context."""

    def __init__(self, opener: Opener, photographs: Path, workers: int, batch: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)  # PyTorch takes seconds to import, once is enough
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, opener, photographs, workers, batch))
        self._process.start()
        self._stopped = False
        theirs.close()

    def pairs_per_second(self, seconds: float) -> float:
        """One timed run (`Feed.run`); stops the processes until the next one.

        Raises:
            FeedError: it cannot be opened, fails, or does not answer.
        """
        try:
            self._go_on()
            self._connection.send(seconds)
            if not self._connection.poll(PATIENCE + seconds):
                raise FeedError(f"no answer within {PATIENCE + seconds:.0f} s")
            answer = self._connection.recv()
            self._stop()
        except (EOFError, OSError):
            raise FeedError("its process ended") from None
        if isinstance(answer, str):
            raise FeedError(answer)
        return float(answer)

    def close(self) -> None:
        """End the process, gently if it can."""
        self._go_on()
        self._connection.close()  # which ends its wait for a word
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            with suppress(ProcessLookupError):  # it was killed before it had made its group
                os.killpg(self._group, signal.SIGKILL)
            self._process.join()

    @property
    def _group(self) -> int:
        """The process group, which the process makes before its first answer."""
        assert self._process.pid is not None
        return self._process.pid

    def _stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGSTOP)
            self._stopped = True

    def _go_on(self) -> None:
        if self._stopped:
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGCONT)
            self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _serve(connection: Connection, opener: Opener, photographs: Path, workers: int, batch: int) -> None:
    """Do timed runs until the other side closes."""
    os.setpgid(0, 0)
    try:
        feed = opener(photographs_in(photographs), workers, batch)
        while True:
            seconds = connection.recv()
            connection.send(feed.run(seconds).pairs_per_second)
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception as error:  # whatever a peer may raise is the reason why it was not measured
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    feed.close()
