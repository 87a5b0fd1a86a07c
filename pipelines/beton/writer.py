"""Write a beton and its manifest: whole or not at all.

FFCV's own DatasetWriter hangs for ever on one bad sample and puts images in the order in which its workers
finish. This one takes encoded images one by one, in the order of the file, and streams them to the disk
page by page; how they are made (one thread or many) is the caller's affair, so the same images always give
the same bytes.

The manifest gets its name first and the beton second. A crash between the two leaves either a manifest
without a beton, or a new manifest beside the earlier beton, which `open_beton` refuses because the digests
differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from pipelines.beton import format as layout
from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.journal import PLACED, SKIPPED_MODE, Journal, Progress
from pipelines.beton.manifest import (
    FORMAT_VERSION,
    Manifest,
    Setting,
    Shots,
    Source,
    manifest_path,
    signed,
    to_json,
    tool_version,
)
from pipelines.beton.pages import PageWriter
from pipelines.beton.tables import PlacedImages, WrittenPages, write_tables
from pipelines.sources.image_list import ImageList
from pipelines.sources.row_order import RowOrder
from pipelines.user_error import UserError
from pipelines.whole_file import bring_to_disk, partial_file, publish


def write_beton(
    path: Path,
    images: ImageList,
    encoded: Iterable[EncodedImage],
    *,
    settings: Mapping[str, Setting],
    overwrite: bool = False,
    page_size: int = layout.PAGE_SIZE,
) -> Manifest:
    """Write `path` and its manifest from the n images of the list, `encoded` in the list's order.

    Memory: two pages and 26 bytes an image; an encoded image is let go once it is written.

    Args:
        path: the beton; its folder exists.
        images: labels, names and paths.
        encoded: n encoded images; an exception that comes from it leaves everything as it was.
        settings: what the conversion was asked for, for the manifest.
        overwrite: replace a file that exists.
        page_size: a power of two, bytes; no image may be larger. Stock FFCV takes 2 MiB to 2 GiB.

    Raises:
        UserError: the output exists or cannot be written, or an image is larger than a page.
    """
    with (
        partial_file(path, overwrite) as file,
        BetonWriter(file, images, RowOrder(n=len(images), seed=None), page_size) as writer,
    ):
        for image in encoded:
            writer.add(image)
        manifest = writer.finish(settings)
        publish_pair(file, path, manifest)
    return manifest


class BetonWriter:
    """Writes the open partial file of a beton, image after image; a context manager."""

    def __init__(self, file: BinaryIO, images: ImageList, order: RowOrder, page_size: int) -> None:
        assert page_size > 0 and page_size & (page_size - 1) == 0, (
            "FFCV finds an image's page by shifting its address"
        )
        self.count = 0
        """Rows that are done, those left out included."""
        self.skipped: list[tuple[int, str]] = []
        """Place in the file's order, and reason, of each row that was left out."""
        self._file, self._images, self._order = file, images, order
        self._placed = np.zeros(len(images), PLACED)
        self._first_page = first_page(len(images), page_size)
        self._pages = PageWriter(file.fileno(), self._first_page, page_size)
        self._noted = (0, 0, 0)  # rows, skipped and pages that the journal knows

    @property
    def copied(self) -> int:
        """Images whose bytes are those of their source file."""
        return int(np.count_nonzero(self._placed["copied"]))

    @property
    def position(self) -> int:
        """Bytes of the file so far."""
        return self._pages.position

    def go_on(self, progress: Progress) -> None:
        """Take up a file that came as far as `progress` says."""
        self.count = len(progress.placed)
        self.skipped = list(progress.skipped)
        self._placed[: self.count] = progress.placed
        self._pages.go_on(progress.position, progress.digests)
        self._file.truncate(progress.position)
        self._noted = (self.count, len(self.skipped), len(progress.digests))

    def add(self, image: EncodedImage) -> None:
        """Write the image of the next row."""
        size, page_size = len(image.data), self._pages.page_size
        if size > page_size:
            row = self._row(self.count)
            raise UserError(
                f"{self._images.name}:{row + 1}: {self._images.path(row)} takes {size:,} bytes, but a page of "
                f"the beton holds {page_size:,}; give --max-size to make it smaller"
            )
        assert self.count < len(self._placed), "more images than rows"
        pointer = self._pages.append(image.data)
        self._placed[self.count] = (
            image.mode,
            image.copied,
            image.width,
            image.height,
            image.crc32,
            pointer,
            size,
        )
        self.count += 1

    def skip(self, reason: str) -> None:
        """Leave the next row out."""
        self._placed[self.count]["mode"] = SKIPPED_MODE
        self.skipped.append((self.count, reason))
        self.count += 1

    def note(self, journal: Journal) -> None:
        """Hand everything to the operating system, and then tell the journal."""
        crc32 = self._pages.flush()
        rows, skipped, pages = self._noted
        progress = Progress(
            placed=self._placed[rows : self.count],
            skipped=self.skipped[skipped:],
            digests=self._pages.digests[pages:],
            position=self._pages.position,
        )
        journal.append(progress, crc32)
        self._noted = (self.count, len(self.skipped), len(self._pages.digests))

    def finish(self, settings: Mapping[str, Setting]) -> Manifest:
        """Write the tables once every row is done; return the manifest, which is not written yet."""
        assert self.count == len(self._placed), f"{self.count} images for {len(self._placed)} rows"
        places = np.flatnonzero(self._placed["mode"] != SKIPPED_MODE)
        if len(places) == 0:
            raise UserError(f"{self._images.name}: every image of the list is bad; nothing is left to write")
        pages_end = self._pages.end()
        written = write_tables(
            self._file,
            PlacedImages(images=self._images, order=self._order, placed=self._placed, places=places),
            WrittenPages(first=self._first_page, end=pages_end, digests=self._pages.digests),
        )
        counts = written.class_counts
        images = self._images
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            tool_version=tool_version(),
            num_images=len(places),
            class_counts=counts.tolist(),
            class_names=images.class_names,
            shots=Shots.of(counts),
            source=Source(kind=images.kind, name=images.name, sha256=images.sha256),
            settings=dict(settings),
            source_paths=written.source_paths,
            image_checksums=written.image_checksums,
            skipped=len(self.skipped),
            tables=written.tables,
            checksums=written.checksums,
            manifest_sha256="",
        )
        return signed(manifest)

    def skipped_rows(self) -> list[tuple[int, str, str]]:
        """Return row (from 1), path and reason of each row that was left out, in the order of the list."""
        rows = [(self._row(place), reason) for place, reason in self.skipped]
        return [(row + 1, self._images.path(row), reason) for row, reason in sorted(rows)]

    def _row(self, place: int) -> int:
        return int(self._order.rows(np.array([place]))[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pages.__exit__(kind, error, traceback)


def first_page(num_rows: int, page_size: int) -> int:
    """Return where the pages start: behind room for all rows, for which are skipped shows at the end."""
    tables = layout.field_descriptors().nbytes + num_rows * layout.metadata_dtype().itemsize
    return layout.align(layout.HEADER.itemsize + tables, page_size)


def publish_pair(file: BinaryIO, path: Path, manifest: Manifest) -> None:
    """Give the manifest and then the partial file of `path` their names."""
    bring_to_disk(file)  # before the manifest gets its name: a full disk must not leave the two apart
    beside = manifest_path(path)
    with partial_file(beside, overwrite=True) as manifest_file:
        manifest_file.write(to_json(manifest).encode())
        publish(manifest_file, beside)
    publish(file, path)
