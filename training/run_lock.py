"""One training a run folder: two that write to one would mix their checkpoints and their logs.

The first process holds a lock on `.lock` in the folder while it trains. The kernel gives it back however its holder
ends, so nothing is to be cleaned up after a SIGKILL. The file stays: a lock on a removed one would protect nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pipelines.user_error import UserError

PATIENCE = 5.0
"""Seconds to wait for the lock: a restart may come while the kernel is still clearing up after a killed process."""
POLL_SECONDS = 0.1
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What flock(2) answers on a file system that has no locks."""


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which exists; on a file system without locks go on, with one warning.

    Raises:
        UserError: another process has held it for `PATIENCE` seconds, or the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); choose another --run.folder") from None
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not _is_locked(descriptor, folder):
        if time.monotonic() > deadline:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another process"
            raise UserError(
                f"run.folder {folder}: {holder}, trains in it; wait for it, end it, or choose another --run.folder"
            )
        time.sleep(POLL_SECONDS)
    os.ftruncate(descriptor, 0)
    who = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%F %T} UTC"
    with suppress(OSError):  # a full disk is no reason: this is for the reader of a refusal only
        os.pwrite(descriptor, who.encode(), 0)


def _is_locked(descriptor: int, folder: Path) -> bool:
    """Whether this process may go on: the lock is its own now, or there are none here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"run.folder {folder} lies on a file system without locks ({error.strerror}): nothing keeps a second "
            "training out of it",
            UserWarning,
            stacklevel=2,
        )
    return True
