"""What a disk answers while a run writes to its folder, as a sentence: it is full, or the folder was taken away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipelines.user_error import UserError
from pipelines.whole_file import hidden_path, publish


@contextmanager
def disk_errors(path: Path, what: str) -> Iterator[None]:
    """Turn the errors of writing `what` to `path` into a `UserError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # PyTorch's zip writer turns a full disk into a RuntimeError
        raise UserError(
            f"{path}: cannot write {what}: {_reason(error)}; make room, or mend the folder"
        ) from None


@contextmanager
def written_whole(path: Path, what: str) -> Iterator[BinaryIO]:
    """Open the hidden file that becomes `path`, on the disk, at the end of the block, or goes where that fails.

    Without the lock of `partial_file`: a run folder has one of its own, and its file system may have none.
    """
    hidden = hidden_path(path)
    with disk_errors(path, what):
        try:
            with hidden.open("wb") as file:
                yield file
                publish(file, path)
        except BaseException:
            hidden.unlink(missing_ok=True)  # on a full disk its room is needed
            raise


def _reason(error: BaseException) -> str:
    """What the kernel said, also where it was said while something else failed over it."""
    answer: BaseException | None = error
    while answer is not None:
        if isinstance(answer, OSError) and answer.strerror:
            return answer.strerror
        answer = answer.__context__
    return str(error).split("\n", 1)[0]
