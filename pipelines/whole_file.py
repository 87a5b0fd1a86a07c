"""A file appears under its name only when it is whole and on the disk; until then its name is hidden.

The hidden name, `.NAME.partial`, is always the same and locked while it is written to: two writers of one
file meet, and what a killed one left behind is taken over by the next. The kernel lets go of the lock when
a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipelines.user_error import UserError


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists (unless `overwrite`), is a folder, or whose folder does not exist."""
    if path.is_dir():
        raise UserError(f"{path}: the output is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder of the output does not exist; create {path.parent} first")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already; give --overwrite to replace it, or another name")


@contextmanager
def partial_file(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """Open the hidden file that is to become `path`, empty; remove it unless it is published.

    Raises:
        UserError: see `check_output`; the file cannot be written (the disk is full, say); another process
        is at it.
    """
    check_output(path, overwrite)
    hidden = _hidden(path)
    try:
        with _open_locked(hidden, path) as file:
            try:
                check_output(path, overwrite)  # again, under the lock: another writer may just have finished
                file.truncate()
                yield file
            finally:
                if _is_named(file, hidden):  # not published; after that the name may be another writer's
                    hidden.unlink()
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from error


def publish(file: BinaryIO, path: Path) -> None:
    """Bring `file`, the partial file of `path`, to the disk, and give it its name."""
    bring_to_disk(file)
    _hidden(path).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no fsync for folders
            os.fsync(folder)
    finally:
        os.close(folder)


def bring_to_disk(file: BinaryIO) -> None:
    """Write what is buffered and wait for the disk: a full one is noticed here at the latest."""
    file.flush()
    os.fsync(file.fileno())


def _is_named(file: BinaryIO, hidden: Path) -> bool:
    return hidden.exists() and os.path.samestat(os.fstat(file.fileno()), hidden.stat())


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _open_locked(hidden: Path, path: Path) -> BinaryIO:
    while True:
        file = os.fdopen(os.open(hidden, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=1 << 20)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(f"{path}: another process is writing this file; wait for it, or end it") from None
        if _is_named(file, hidden):
            return file
        file.close()  # its writer published or removed it between our open and our lock: open the name again
