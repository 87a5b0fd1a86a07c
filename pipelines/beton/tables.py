"""What a beton holds besides its pages: names behind them, the tables, and the header, written last of all.

Everything is made a chunk of rows at a time, and digested while it is written: no table of millions of rows is held
in memory beside the record of what lies where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from pipelines.beton import format as layout
from pipelines.beton.manifest import Checksums, Region, Tables
from pipelines.sources.image_list import ImageList
from pipelines.sources.row_order import CHUNK, RowOrder, chunks_of, joined_paths


@dataclass(frozen=True, kw_only=True)
class WrittenTables:
    """What the manifest says of them."""

    class_counts: np.ndarray
    """(C,) int64."""
    source_paths: Region
    image_checksums: Region
    tables: Tables
    checksums: Checksums


@dataclass(frozen=True, kw_only=True)
class PlacedImages:
    """What became of a list."""

    images: ImageList
    order: RowOrder
    """Of its rows in the file."""
    placed: np.ndarray
    """(rows,) PLACED, in that order."""
    places: np.ndarray
    """(n,) int64: which of them hold an image."""


@dataclass(frozen=True, kw_only=True)
class WrittenPages:
    """The pages, which are written."""

    first: int
    end: int
    """Where they start and end."""
    digests: list[bytes]
    """The SHA-256 of each."""


def write_tables(file: BinaryIO, content: PlacedImages, pages: WrittenPages) -> WrittenTables:
    """Write names, metadata and allocation table, and the header last, and flush."""
    counts, paths_length = _count(content)
    n = len(content.places)
    source_paths = Region(offset=pages.end, length=paths_length)
    image_checksums = Region(offset=layout.align(pages.end + paths_length, 8), length=4 * n)
    end_of_names = layout.align(image_checksums.offset + image_checksums.length, 8)
    page_size = (pages.end - pages.first) // len(pages.digests)
    header = np.zeros(1, layout.HEADER)
    header["version"], header["num_fields"], header["page_size"] = layout.VERSION, 2, page_size
    header["num_samples"], header["alloc_table_ptr"] = n, end_of_names

    names = _write_names(file, content, source_paths, image_checksums)
    names.zeros_up_to(end_of_names)
    head = _Region(file, layout.HEADER.itemsize, before=header.tobytes())
    all_tables = hashlib.sha256(header.tobytes())
    for part in _front(content):
        head.write(part)
        all_tables.update(part)
    head.zeros_up_to(pages.first)
    table = _Region(file, end_of_names)
    for part in _allocations(content):
        table.write(part)
        all_tables.update(part)
    beton_length = file.tell()
    file.flush()
    file.seek(0)
    file.write(header.tobytes())
    file.flush()
    return WrittenTables(
        class_counts=counts,
        source_paths=source_paths,
        image_checksums=image_checksums,
        tables=Tables(beton_length=beton_length, sha256=all_tables.hexdigest()),
        checksums=Checksums(
            page_size=page_size,
            first_page=pages.first,
            header=head.hexdigest(),
            pages=[digest.hex() for digest in pages.digests],
            names=names.hexdigest(),
            allocation_table=table.hexdigest(),
        ),
    )


def _count(content: PlacedImages) -> tuple[np.ndarray, int]:
    """Return the (C,) int64 class counts and the bytes of all paths, joined."""
    images = content.images
    counts = np.zeros(images.num_classes, np.int64)
    length = -1  # the last path has no newline
    for rows in chunks_of(content.places, content.order):
        counts += np.bincount(images.labels[rows], minlength=len(counts))
        length += int((images.starts[rows + 1] - images.starts[rows]).sum())
    return counts, length


def _write_names(
    file: BinaryIO, content: PlacedImages, source_paths: Region, image_checksums: Region
) -> _Region:
    names = _Region(file, source_paths.offset)
    end = source_paths.offset + source_paths.length
    for rows in chunks_of(content.places, content.order):
        names.write(joined_paths(content.images, rows)[: end - file.tell()])
    names.zeros_up_to(image_checksums.offset)
    for places in _chunks(content.places):
        names.write(content.placed["crc32"][places].tobytes())
    return names


def _front(content: PlacedImages) -> Iterator[bytes]:
    """The field descriptors and the metadata table."""
    yield layout.field_descriptors().tobytes()
    for places, rows in zip(_chunks(content.places), chunks_of(content.places, content.order), strict=True):
        records = content.placed[places]
        metadata = np.zeros(len(records), layout.metadata_dtype())
        metadata["label"] = content.images.labels[rows]
        for name, column in (("mode", "mode"), ("width", "width"), ("height", "height"), ("data_ptr", "ptr")):
            metadata["image"][name] = records[column]
        yield metadata.tobytes()


def _allocations(content: PlacedImages) -> Iterator[bytes]:
    start = 0
    for places in _chunks(content.places):
        records = content.placed[places]
        allocations = np.zeros(len(records), layout.ALLOCATION)
        allocations["sample_id"] = np.arange(start, start + len(records))
        allocations["ptr"], allocations["size"] = records["ptr"], records["size"]
        yield allocations.tobytes()
        start += len(records)


def _chunks(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), CHUNK):
        yield places[start : start + CHUNK]


class _Region:
    """Writes one part of the file from `start` on, and digests it, `before` first."""

    def __init__(self, file: BinaryIO, start: int, before: bytes = b"") -> None:
        self._file, self._digest = file, hashlib.sha256(before)
        file.seek(start)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)

    def zeros_up_to(self, end: int) -> None:
        self.write(bytes(end - self._file.tell()))

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
