"""A copy of a beton on this machine, made once a node: for files that lie far away.

Every process of a run asks for the copy and gets it; the first to come makes it, under a lock that the kernel
gives back however its holder ends, and the others wait. The lock knows nothing of ranks, so the runs of a grid and
the two jobs of a shared node share one copy too. Each part is checked against the manifest on its way, so what
arrives is what was converted. A copy has its name only when it is whole; it is called by the digest of its manifest,
so two sets with one file name do not meet, and a set that was converted anew is another.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from pipelines.beton import format as layout
from pipelines.beton.manifest import Manifest, manifest_path, read_manifest, signed, to_json
from pipelines.beton.network_files import PreadFile, file_system_type
from pipelines.beton.parts import Part, file_parts
from pipelines.beton.verification import verify_beton
from pipelines.memory import available_memory
from pipelines.user_error import UserError
from pipelines.whole_file import partial_file, publish

READERS = 8
"""Parts that are on their way at once: a network file system answers many questions side by side."""

DIGITS = 16
"""Of the manifest's digest, in the name of a copy's folder."""

TMPFS = 0x01021994
"""`f_type` of statfs(2): files in memory."""


def stage_folder(kind: Literal["local", "ram"], chosen: str | None) -> Path:
    """Return the folder of the copies: the chosen one, or one of this user's in $TMPDIR or in /dev/shm.

    Raises:
        UserError: it cannot be made, or the default one belongs to another user.
    """
    folder = Path(chosen) if chosen is not None else default_folder(kind)
    try:
        folder.mkdir(parents=chosen is not None, exist_ok=True, mode=0o777 if chosen is not None else 0o700)
        owner = folder.stat().st_uid
    except OSError as error:
        raise UserError(
            f"data.stage {kind}: {folder} cannot be made ({error.strerror}); choose a --data.stage_folder"
        ) from None
    if chosen is None and owner != os.getuid():
        raise UserError(
            f"data.stage {kind}: {folder} belongs to another user; choose a --data.stage_folder of your own"
        )
    return folder


def default_folder(kind: Literal["local", "ram"]) -> Path:
    """Return where the copies of this user are, where no folder is chosen; it may not exist."""
    root = Path("/dev/shm") if kind == "ram" else Path(tempfile.gettempdir())
    return root / f"fasttail-{os.getuid()}"


def staged_bytes(folder: Path) -> int:
    """Return what the copies under a folder take; 0 where there is none. Nothing but its user removes them."""
    copies = "[0-9a-f]" * DIGITS + "/*"  # what else a user keeps in a folder of his own is not counted
    return sum(file.stat().st_size for file in folder.glob(copies) if file.is_file())


def stage_beton(path: Path, folder: Path) -> Path:
    """Return the copy of the beton `path` and its manifest under `folder`; makes it unless it is there and whole.

    A copy that is there is believed if inode, size and time of change are those that it had when it was last
    checked; otherwise every byte is checked again.

    Raises:
        UserError: there is no manifest, the source is damaged, or there is not enough room.
    """
    manifest = read_manifest(manifest_path(path))
    if signed(manifest).manifest_sha256 != manifest.manifest_sha256:
        raise UserError(f"{manifest_path(path)}: the manifest is damaged; copy it again")
    copy = folder / manifest.manifest_sha256[:DIGITS] / path.name
    with _locked(copy) as checked:
        if not _is_whole(copy, checked):
            _check_room(path, manifest, folder)
            print(
                f"Staging {path} ({manifest.tables.beton_length / 1e9:.2f} GB) to {copy}; it stays there",
                file=sys.stderr,
            )
            _copy(path, manifest, copy)
        _remember(copy, checked)
    return copy


@contextmanager
def _locked(copy: Path) -> Iterator[BinaryIO]:
    """Hold the lock of a copy, waiting for it; its file remembers what was checked."""
    try:
        copy.parent.mkdir(exist_ok=True)
        descriptor = os.open(copy.with_name(f".{copy.name}.checked"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(
            f"{copy.parent}: cannot be written ({error.strerror}); choose another --data.stage_folder"
        ) from None
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _state(copy: Path) -> list[int]:
    status = copy.stat()
    return [status.st_ino, status.st_size, status.st_ctime_ns]  # st_mtime_ns can be set back, this cannot


def _is_whole(copy: Path, checked: BinaryIO) -> bool:
    if not (copy.exists() and manifest_path(copy).exists()):
        return False
    if checked.read() == json.dumps(_state(copy)).encode():
        return True
    try:
        return not verify_beton(copy, workers=READERS).faults
    except UserError:  # its manifest is none any more
        return False


def _remember(copy: Path, checked: BinaryIO) -> None:
    checked.seek(0)
    checked.truncate()
    checked.write(json.dumps(_state(copy)).encode())


def _check_room(path: Path, manifest: Manifest, folder: Path) -> None:
    """Refuse a file that does not fit, before an hour of copying; in memory, before the machine runs out of it."""
    needed, free = manifest.tables.beton_length, shutil.disk_usage(folder).free
    if file_system_type(folder) == TMPFS:
        free = min(free, available_memory())
    if needed > free:
        raise UserError(
            f"{path} needs {needed / 1e9:.2f} GB and {folder} has room for {free / 1e9:.2f} GB: remove older copies "
            f"there ({staged_bytes(folder) / 1e9:.2f} GB), choose another --data.stage_folder, or set --data.stage none"
        )


def _copy(path: Path, manifest: Manifest, copy: Path) -> None:
    """Copy part by part, several at once, each checked; then give it its name, the manifest's first."""
    source = _open(path, manifest)
    tables, pages = _parts(path, manifest, source)
    with partial_file(copy, overwrite=True) as file:
        descriptor = file.fileno()

        def bring(part: Part) -> None:
            data = source.read(part.start, part.stop - part.start)
            if not part.is_intact(data):
                raise UserError(
                    f"{path}: the {part.name} (bytes {part.start:,} to {part.stop - 1:,}) is damaged; "
                    "`convert_datasets.py verify` names the images"
                )
            _write(descriptor, data, part.start, copy)

        with ThreadPoolExecutor(READERS) as pool:
            try:
                for _ in pool.map(bring, [*tables, *pages]):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        with partial_file(manifest_path(copy), overwrite=True) as beside:
            beside.write(to_json(manifest).encode())
            publish(beside, manifest_path(copy))
        publish(file, copy)


def _open(path: Path, manifest: Manifest) -> PreadFile:
    length = manifest.tables.beton_length
    try:
        found = path.stat().st_size
        source = PreadFile(path)
    except OSError as error:
        raise UserError(f"{path}: cannot open the beton: {error.strerror}") from None
    if found != length:
        raise UserError(
            f"{path}: has {found:,} bytes and its manifest says {length:,}; copy or convert it again"
        )
    return source


def _parts(path: Path, manifest: Manifest, source: PreadFile) -> tuple[list[Part], list[Part]]:
    try:
        return file_parts(manifest, source.read(0, layout.HEADER.itemsize))
    except ValueError as error:
        raise UserError(f"{path}: {error}; copy or convert it again") from None


def _write(descriptor: int, data: np.ndarray, start: int, copy: Path) -> None:
    done = 0
    while done < len(data):
        try:
            done += os.pwrite(descriptor, data[done:].data, start + done)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"{copy.parent.parent} is full: remove older copies there, choose another --data.stage_folder, "
                    "or set --data.stage none"
                ) from None
            raise
