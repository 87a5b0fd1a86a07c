"""Write a beton and its manifest: whole or not at all.

FFCV's own DatasetWriter hangs for ever on one bad sample and puts images in the order in which its workers
finish. This one takes encoded images one by one, in the order of the list, and streams them to the disk
page by page; how they are made (one thread or many) is the caller's affair, so the same images always give
the same bytes.

The manifest gets its name first and the beton second. A crash between the two leaves either a manifest
without a beton, or a new manifest beside the earlier beton, which `open_beton` refuses because the digests
differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipelines import beton_format as layout
from pipelines.image_bytes import EncodedImage
from pipelines.manifest import (
    FORMAT_VERSION,
    Manifest,
    Region,
    Setting,
    Shots,
    Source,
    Tables,
    manifest_path,
    tables_sha256,
    to_json,
    tool_version,
)
from pipelines.sources import ImageList
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

    Memory: the open file's buffer and 56 bytes an image; an encoded image is let go once it is written.

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
    assert page_size > 0 and page_size & (page_size - 1) == 0, (
        "FFCV finds an image's page by shifting its address"
    )
    with partial_file(path, overwrite) as file:
        metadata, sizes = _write_pages(file, images, encoded, page_size)
        source_paths = Region(offset=layout.align(file.tell(), page_size), length=len(images.paths))
        file.seek(source_paths.offset)
        file.write(images.paths)
        tables = _write_tables(file, metadata, sizes, page_size)
        counts = images.class_counts()
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            tool_version=tool_version(),
            num_images=len(images),
            class_counts=counts.tolist(),
            class_names=images.class_names,
            shots=Shots.of(counts),
            source=Source(kind=images.kind, name=images.name, sha256=images.sha256),
            settings=dict(settings),
            source_paths=source_paths,
            tables=tables,
        )
        bring_to_disk(file)  # before the manifest gets its name: a full disk must not leave the two apart
        beside = manifest_path(path)
        with partial_file(beside, overwrite=True) as manifest_file:
            manifest_file.write(to_json(manifest).encode())
            publish(manifest_file, beside)
        publish(file, path)
    return manifest


def _write_pages(
    file: BinaryIO, images: ImageList, encoded: Iterable[EncodedImage], page_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Write the images; return the metadata table and the (n,) uint64 sizes in bytes."""
    metadata = np.zeros(len(images), layout.metadata_dtype())
    sizes = np.zeros(len(images), np.uint64)
    metadata["label"] = images.labels
    fields = metadata["image"]
    modes, widths, heights, pointers = (fields[name] for name in ("mode", "width", "height", "data_ptr"))
    start = layout.HEADER.itemsize + layout.field_descriptors().nbytes + metadata.nbytes
    position = layout.align(start, page_size)
    file.seek(position)  # what is skipped reads as zeros: no version, no allocation table, so no whole file
    for i, image in enumerate(_exactly(encoded, len(images))):
        size = len(image.data)
        if size > page_size:
            raise UserError(
                f"{images.name}:{i + 1}: {images.path(i)} takes {size:,} bytes, but a page of the beton "
                f"holds {page_size:,}; give --max-size to make it smaller"
            )
        if position % page_size + size > page_size:
            position = layout.align(position, page_size)
            file.seek(position)
        file.write(image.data)
        modes[i], widths[i], heights[i] = image.mode, image.width, image.height
        pointers[i], sizes[i] = position, size
        position += size
    return metadata, sizes


def _exactly(encoded: Iterable[EncodedImage], count: int) -> Iterable[EncodedImage]:
    seen = 0
    for seen, image in enumerate(encoded, start=1):
        assert seen <= count, "more images than rows"
        yield image
    assert seen == count, f"{seen} images for {count} rows"


def _write_tables(file: BinaryIO, metadata: np.ndarray, sizes: np.ndarray, page_size: int) -> Tables:
    """Write allocation table, descriptors and metadata, and last of all the header."""
    allocations = np.zeros(len(metadata), layout.ALLOCATION)
    allocations["sample_id"] = np.arange(len(metadata))
    allocations["ptr"] = metadata["image"]["data_ptr"]
    allocations["size"] = sizes
    header = np.zeros(1, layout.HEADER)
    header["version"], header["num_fields"], header["page_size"] = layout.VERSION, 2, page_size
    header["num_samples"] = len(metadata)
    header["alloc_table_ptr"] = layout.align(file.tell(), 8)  # aligned for readers that map the table
    descriptors = layout.field_descriptors()

    file.seek(int(header["alloc_table_ptr"][0]))
    file.write(allocations.data)
    length = file.tell()
    file.seek(layout.HEADER.itemsize)
    file.write(descriptors.data)
    file.write(metadata.data)
    file.flush()
    file.seek(0)
    file.write(header.data)
    return Tables(beton_length=length, sha256=tables_sha256([header, descriptors, metadata, allocations]))
