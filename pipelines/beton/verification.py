"""Check every byte of a beton and its manifest, decode a sample, and name the image where a fault lies in one.

The manifest has a digest of itself and of each part of the beton, and the parts are the whole file: no byte can change
unnoticed. A page that is not what it was is looked at more closely: the CRC-32 of each of its images tells which are
hit; if none is, the fault lies in the zeros between them.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.beton import format as layout
from pipelines.beton.format import JPEG_MODE
from pipelines.beton.manifest import Manifest, manifest_path, read_manifest, signed, to_json
from pipelines.beton.parts import file_parts
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.in_turn import in_turn
from pipelines.strict_pillow import strict_pillow
from pipelines.user_error import UserError

SAMPLE = 256
"""Images that are decoded unless all are."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a verification found."""

    faults: list[str]
    """A sentence each; none for a file that is what it was."""
    num_bytes: int
    """Of the beton, all of them checked."""
    num_decoded: int


def verify_beton(path: Path, *, decode_all: bool = False, workers: int = 1) -> Verified:
    """Check the beton `path` and its manifest.

    Raises:
        UserError: there is no beton, or no manifest of this format, so that nothing can be checked.
    """
    manifest, faults = _read_checked_manifest(path)
    try:
        content = np.memmap(path, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the file is empty"
        raise UserError(f"{path}: cannot open the beton: {reason}") from error
    with ThreadPoolExecutor(workers) as pool, strict_pillow():
        if faults:  # the digests are not to be trusted
            return Verified(faults=faults, num_bytes=0, num_decoded=0)
        if len(content) != manifest.tables.beton_length:
            fault = f"it has {len(content):,} bytes, its manifest says {manifest.tables.beton_length:,}"
            return Verified(faults=[f"{path}: {fault}"], num_bytes=0, num_decoded=0)
        parts, bad_pages = _check_parts(content, manifest, pool)
        faults = [f"{path}: the {part} is damaged" for part in parts]
        tables_hold = not parts
        beton = open_beton(path) if tables_hold else None
        faults += [fault for page in bad_pages for fault in _page_faults(path, beton, manifest, page)]
        decoded = 0
        if beton is not None and not bad_pages:
            found, decoded = _decode(beton, decode_all, pool)
            faults += found
    return Verified(faults=faults, num_bytes=len(content), num_decoded=decoded)


def _read_checked_manifest(path: Path) -> tuple[Manifest, list[str]]:
    beside = manifest_path(path)
    manifest = read_manifest(beside)
    # Compared as text, for JSON reads the same with another blank, and a digest with another letter case.
    intact = to_json(signed(manifest)).encode() == beside.read_bytes()
    return manifest, [] if intact else [f"{beside}: the manifest is damaged: its digest is another"]


def _check_parts(
    content: np.ndarray, manifest: Manifest, pool: ThreadPoolExecutor
) -> tuple[list[str], list[int]]:
    """Return the names of the damaged parts, and the damaged pages."""
    try:
        tables, pages = file_parts(manifest, content[: layout.HEADER.itemsize])
    except ValueError:
        return ["header"], []

    def check(start: int, stop: int) -> list[int]:
        return [page for page in range(start, stop) if not pages[page].is_intact(pages[page].cut(content))]

    bad_pages = [page for found in in_turn(pool, check, 0, len(pages), 1) for page in found]
    return [part.name for part in tables if not part.is_intact(part.cut(content))], bad_pages


def _page_faults(path: Path, beton: BetonFile | None, manifest: Manifest, page: int) -> Iterator[str]:
    """Say what is damaged in a damaged page."""
    checksums = manifest.checksums
    start = checksums.first_page + page * checksums.page_size
    where = f"page {page} (bytes {start:,} to {start + checksums.page_size - 1:,})"
    if beton is None:
        yield f"{path}: {where} is damaged"
        return
    region = manifest.image_checksums
    crc32 = beton.content[region.offset : region.offset + region.length].view("<u4")
    inside = np.flatnonzero((beton.offsets >= start) & (beton.offsets < start + checksums.page_size))
    hit = [i for i in inside.tolist() if zlib.crc32(beton.image_bytes(i).data) != crc32[i]]
    if not hit:
        yield f"{path}: {where} is damaged, but none of its images: the zeros after them are"
    for i in hit:
        yield f"{path}: image {i} ({beton.source_path(i)}) is damaged, in {where}"


def _decode(beton: BetonFile, decode_all: bool, pool: ThreadPoolExecutor) -> tuple[list[str], int]:
    """Decode images; return the faults, and how many were decoded."""
    n = beton.num_images
    chosen = np.arange(n) if decode_all or n <= SAMPLE else np.linspace(0, n - 1, SAMPLE).astype(np.int64)

    def decode(start: int, stop: int) -> list[str]:
        return [fault for i in chosen[start:stop].tolist() if (fault := _decode_fault(beton, i))]

    faults = [fault for found in in_turn(pool, decode, 0, len(chosen), 64) for fault in found]
    return faults, len(chosen)


def _decode_fault(beton: BetonFile, i: int) -> str | None:
    if beton.modes[i] != JPEG_MODE:
        return None  # raw pixels: there is nothing to decode, and their number was checked
    try:
        with Image.open(io.BytesIO(beton.image_bytes(i).tobytes())) as image:
            image.load()
            wanted = (int(beton.widths[i]), int(beton.heights[i]))
            if image.size != wanted:
                raise ValueError(f"it has {image.size} pixels, the beton says {wanted}")
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        return f"{beton.path}: image {i} ({beton.source_path(i)}) cannot be decoded: {error}"
    return None
