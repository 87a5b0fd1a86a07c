"""What of an unfinished beton is done, so that a run that was killed goes on where it stopped.

`.NAME.journal` lies beside the partial file `.NAME.partial`: a line of JSON that says of what and how the beton is
made, then a block for each moment at which all bytes so far had been handed to the operating system. A block tells
the images since the block before: where they lie, or why they were skipped. A block that a kill has cut short is
not there: it has a checksum. The beton's bytes are checked too before they are built on, for after a power
cut the journal may know of bytes that never reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipelines.beton.manifest import Setting

PLACED = np.dtype(
    [
        ("mode", "u1"),
        ("copied", "?"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("crc32", "<u4"),
        ("ptr", "<u8"),
        ("size", "<u8"),
    ]
)
"""What became of one row of the list; packed, 26 bytes."""
SKIPPED_MODE = 255
"""`mode` of a row that was left out."""

HEAD = struct.Struct("<IIIQI")
"""Rows, page digests, bytes of the reasons, position in the beton, CRC-32 of the unfinished page."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a beton is."""

    placed: np.ndarray
    """(i,) PLACED: the first i rows in the order of the file."""
    skipped: list[tuple[int, str]]
    """Place in that order, and reason, of each row that was left out."""
    digests: list[bytes]
    """SHA-256 of each whole page."""
    position: int
    """Bytes of the beton."""


class Journal:
    """The open journal of a beton whose partial file this process holds the lock of."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.journal")
        self._file: BinaryIO | None = None

    def begin(self, identity: Mapping[str, Setting]) -> None:
        """Start a journal of a conversion that `identity` describes."""
        self.close()
        self._file = self._path.open("wb", buffering=0)
        self._file.write(json.dumps(dict(identity)).encode() + b"\n")

    def identity(self) -> dict[str, Setting] | None:
        """Return what the journal that is there was begun with; None if there is none."""
        try:
            with self._path.open("rb") as file:
                line = file.readline()
            found = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def go_on(self, beton: BinaryIO, first_page: int, page_size: int) -> Progress | None:
        """Return the last progress that the beton's bytes bear out, and append after it; None if none."""
        content = self._path.read_bytes()
        blocks = _blocks(content, content.index(b"\n") + 1)
        digests = [digest for block in blocks for digest in block.digests]
        whole = _whole_pages(beton.fileno(), first_page, page_size, digests)
        while blocks:
            known = digests[: sum(len(block.digests) for block in blocks)]
            last = blocks[-1]
            start = first_page + len(known) * page_size
            part = os.pread(beton.fileno(), last.position - start, start)
            if len(known) <= whole and len(part) == last.position - start and zlib.crc32(part) == last.crc32:
                break
            blocks.pop()
        else:
            return None
        self._file = self._path.open("r+b", buffering=0)
        self._file.truncate(last.end)
        self._file.seek(last.end)
        return Progress(
            placed=np.concatenate([block.placed for block in blocks]),
            skipped=[(place, reason) for block in blocks for place, reason in block.skipped],
            digests=known,
            position=last.position,
        )

    def append(self, progress: Progress, crc32: int) -> None:
        """Note what was added since the last call; its bytes are with the operating system already."""
        assert self._file is not None
        reasons = json.dumps(progress.skipped).encode() if progress.skipped else b""
        head = HEAD.pack(len(progress.placed), len(progress.digests), len(reasons), progress.position, crc32)
        block = head + progress.placed.tobytes() + b"".join(progress.digests) + reasons
        block += struct.pack("<I", zlib.crc32(block))
        while block:
            block = block[self._file.write(block) :]

    def close(self) -> None:
        """Close the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Close and remove it: the beton has its name."""
        self.close()
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _Block(Progress):
    crc32: int
    end: int
    """Where the block ends in the journal."""


def _blocks(content: bytes, position: int) -> list[_Block]:
    blocks = []
    while position + HEAD.size <= len(content):
        rows, digests, reasons, beton_position, crc32 = HEAD.unpack_from(content, position)
        after_rows = position + HEAD.size + rows * PLACED.itemsize
        after_digests = after_rows + digests * 32
        end = after_digests + reasons
        if content[end : end + 4] != struct.pack("<I", zlib.crc32(content[position:end])):
            break
        skipped = json.loads(content[after_digests:end]) if reasons else []
        blocks.append(
            _Block(
                placed=np.frombuffer(content, PLACED, rows, position + HEAD.size),
                skipped=[(place, reason) for place, reason in skipped],
                digests=[content[start : start + 32] for start in range(after_rows, after_digests, 32)],
                position=beton_position,
                crc32=crc32,
                end=end + 4,
            )
        )
        position = end + 4
    return blocks


def _whole_pages(descriptor: int, first_page: int, page_size: int, digests: list[bytes]) -> int:
    """Return how many pages from the first on have their digest."""
    for page, digest in enumerate(digests):
        data = os.pread(descriptor, page_size, first_page + page * page_size)
        if hashlib.sha256(data).digest() != digest:
            return page
    return len(digests)
