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

from pipelines import beton_format as layout
from pipelines.manifest import Checksums, Region, Tables
from pipelines.row_order import CHUNK, RowOrder, chunks_of, joined_paths
from pipelines.sources import ImageList


@dataclass(frozen=True, kw_only=True)
class WrittenTables:
    """What the manifest says of them."""

    class_counts: np.ndarray
    """(C,) int64."""
    source_paths: Region
    image_checksums: Region
    tables: Tables
    checksums: Checksums


def write_tables(
    file: BinaryIO,
    images: ImageList,
    order: RowOrder,
    placed: np.ndarray,
    *,
    places: np.ndarray,
    first_page: int,
    pages: list[bytes],
    pages_end: int,
) -> WrittenTables:
    """Write names, allocation table, descriptors, metadata and header, and flush.

    Args:
        file: the beton, its pages written.
        images: the list.
        order: of its rows in the file.
        placed: (rows,) PLACED.
        places: (n,) int64, which of them hold an image.
        first_page: where the pages start.
        pages: the SHA-256 of each.
        pages_end: where they end.
    """
    page_size = (pages_end - first_page) // len(pages)
    counts = np.zeros(images.num_classes, np.int64)
    length = -1  # the last path has no newline
    for rows in chunks_of(places, order):
        counts += np.bincount(images.labels[rows], minlength=len(counts))
        length += int((images.starts[rows + 1] - images.starts[rows]).sum())
    source_paths = Region(offset=pages_end, length=length)
    image_checksums = Region(offset=layout.align(pages_end + length, 8), length=4 * len(places))
    end_of_names = layout.align(image_checksums.offset + image_checksums.length, 8)
    header = np.zeros(1, layout.HEADER)
    header["version"], header["num_fields"], header["page_size"] = layout.VERSION, 2, page_size
    header["num_samples"], header["alloc_table_ptr"] = len(places), end_of_names

    names = _Region(file, pages_end)
    for rows in chunks_of(places, order):
        names.write(joined_paths(images, rows)[: pages_end + length - file.tell()])
    names.zeros_up_to(image_checksums.offset)
    for start in range(0, len(places), CHUNK):
        names.write(placed["crc32"][places[start : start + CHUNK]].tobytes())
    names.zeros_up_to(end_of_names)
    head = _Region(file, layout.HEADER.itemsize, before=header.tobytes())
    all_tables = hashlib.sha256(header.tobytes())
    for part in _front(images, order, placed, places):
        head.write(part)
        all_tables.update(part)
    head.zeros_up_to(first_page)
    table = _Region(file, end_of_names)
    for part in _allocations(placed, places):
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
            first_page=first_page,
            header=head.hexdigest(),
            pages=[digest.hex() for digest in pages],
            names=names.hexdigest(),
            allocation_table=table.hexdigest(),
        ),
    )


def _front(images: ImageList, order: RowOrder, placed: np.ndarray, places: np.ndarray) -> Iterator[bytes]:
    """The field descriptors and the metadata table."""
    yield layout.field_descriptors().tobytes()
    for start, rows in zip(range(0, len(places), CHUNK), chunks_of(places, order), strict=True):
        records = placed[places[start : start + CHUNK]]
        metadata = np.zeros(len(records), layout.metadata_dtype())
        metadata["label"] = images.labels[rows]
        for name, column in (("mode", "mode"), ("width", "width"), ("height", "height"), ("data_ptr", "ptr")):
            metadata["image"][name] = records[column]
        yield metadata.tobytes()


def _allocations(placed: np.ndarray, places: np.ndarray) -> Iterator[bytes]:
    for start in range(0, len(places), CHUNK):
        records = placed[places[start : start + CHUNK]]
        allocations = np.zeros(len(records), layout.ALLOCATION)
        allocations["sample_id"] = np.arange(start, start + len(records))
        allocations["ptr"], allocations["size"] = records["ptr"], records["size"]
        yield allocations.tobytes()


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
