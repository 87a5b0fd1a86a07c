"""A file appears under its name only when it is whole and on the disk; until then its name is hidden.

The hidden name, `.NAME.partial`, is always the same and locked while it is written to: two writers of one
file meet, and what a killed one left behind is taken over by the next. The kernel lets go of the lock when
a process ends, however it ends.

What a large file has cost need not be lost: `resumable_file` keeps the hidden file when its writer fails, for a
writer that can tell how far it came.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipelines.user_error import UserError

PARTIAL = ".partial"
"""How hidden names end."""


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
    with _locked_file(path, overwrite, "") as file:
        try:
            file.truncate()
            yield file
        finally:
            _remove(file, path)


@contextmanager
def resumable_file(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """Open the hidden file that is to become `path` with what it holds; it stays, unless it is empty then.

    Raises:
        UserError: as `partial_file`.
    """
    with _locked_file(path, overwrite, "; the same command goes on where this one stopped") as file:
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                _remove(file, path)


@contextmanager
def _locked_file(path: Path, overwrite: bool, remedy: str) -> Iterator[BinaryIO]:
    check_output(path, overwrite)
    try:
        with _open_locked(hidden_path(path), path) as file:
            check_output(path, overwrite)  # again, under the lock: another writer may just have finished
            yield file
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path}: cannot write: {error.strerror}; free some space, or write elsewhere{remedy}"
            ) from error
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from error


def _remove(file: BinaryIO, path: Path) -> None:
    """Remove the hidden file unless it was published; after that the name may be another writer's."""
    hidden = hidden_path(path)
    if _is_named(file, hidden):
        hidden.unlink()


def publish(file: BinaryIO, path: Path) -> None:
    """Bring `file`, the partial file of `path`, to the disk, and give it its name."""
    bring_to_disk(file)
    hidden_path(path).replace(path)
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
    try:
        named = hidden.stat()
    except FileNotFoundError:  # one question, not two: another writer may publish or remove it in between
        return False
    return os.path.samestat(os.fstat(file.fileno()), named)


def hidden_path(path: Path) -> Path:
    """Return where `path` is written until it is whole."""
    return path.with_name(f".{path.name}{PARTIAL}")


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
