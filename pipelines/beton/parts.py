"""The parts of a beton that its manifest has a digest of: together they are every byte of the file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.beton import format as layout
from pipelines.beton.manifest import Manifest


@dataclass(frozen=True)
class Part:
    """A range of the file's bytes."""

    name: str
    start: int
    stop: int
    sha256: str

    def cut(self, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Its bytes, of those of the whole file."""
        return content[self.start : self.stop]

    def is_intact(self, data: NDArray[np.uint8]) -> bool:
        """Whether `data`, (stop - start,) uint8, is what the manifest says."""
        return hashlib.sha256(data.data).hexdigest() == self.sha256


def file_parts(manifest: Manifest, header: NDArray[np.uint8]) -> tuple[list[Part], list[Part]]:
    """Return header, names and allocation table; and the pages. `header` is the start of the file, 24 bytes or more.

    Raises:
        ValueError: the file's header does not fit the manifest.
    """
    checksums, length = manifest.checksums, manifest.tables.beton_length
    first, size = checksums.first_page, checksums.page_size
    names = manifest.source_paths.offset
    table = int(header[: layout.HEADER.itemsize].view(layout.HEADER)["alloc_table_ptr"][0])
    if first + len(checksums.pages) * size != names or not names <= table <= length:
        raise ValueError("the header says another layout than the manifest")
    pages = [
        Part(f"page {page}", first + page * size, first + (page + 1) * size, digest)
        for page, digest in enumerate(checksums.pages)
    ]
    tables = [
        Part("header (with the metadata table)", 0, first, checksums.header),
        Part("region of the source paths", names, table, checksums.names),
        Part("allocation table", table, length, checksums.allocation_table),
    ]
    return tables, pages
