"""A beton of any number of images without any: its tables and manifest are real, its pages are a hole in the file.

To measure what grows with the number of images: opening, samplers, draws, memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beton import format as layout
from pipelines.beton.manifest import (
    FORMAT_VERSION,
    Checksums,
    Manifest,
    Region,
    Shots,
    Source,
    Tables,
    manifest_path,
    signed,
    tables_sha256,
    to_json,
    tool_version,
)

CLASSES = 1000
IMBALANCE = 256
"""Images of the first class over those of the last: 1280 to 5 in ImageNet-LT."""
HEIGHT, WIDTH = 375, 500
IMAGE_BYTES = 64
"""Of a hole that stands for an image."""


def long_tailed_labels(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Return (n,) int64 in no order, class probabilities falling by a constant factor from class to class."""
    weights = IMBALANCE ** -(np.arange(CLASSES) / (CLASSES - 1))
    cumulative = np.cumsum(weights / weights.sum())
    rng = np.random.default_rng(seed)
    labels = np.empty(count, np.int64)
    for start in range(0, count, 1 << 20):
        part = labels[start : start + (1 << 20)]
        part[:] = np.minimum(np.searchsorted(cumulative, rng.random(len(part))), CLASSES - 1)
    return labels


def write_synthetic_beton(path: Path, count: int) -> None:
    """Write `path` and its manifest: `count` JPEGs of 375 x 500 pixels, none of which can be decoded."""
    labels = long_tailed_labels(count)
    metadata = np.zeros(count, layout.metadata_dtype())
    first = layout.align(
        layout.HEADER.itemsize + 2 * layout.FIELD_DESCRIPTOR.itemsize + metadata.nbytes, layout.PAGE_SIZE
    )
    pointers = first + IMAGE_BYTES * np.arange(count, dtype=np.uint64)
    metadata["label"] = labels
    for name, value in (
        ("mode", layout.JPEG_MODE),
        ("width", WIDTH),
        ("height", HEIGHT),
        ("data_ptr", pointers),
    ):
        metadata["image"][name] = value
    table = np.zeros(count, layout.ALLOCATION)
    table["sample_id"], table["ptr"], table["size"] = np.arange(count), pointers, IMAGE_BYTES
    pages = -(-count * IMAGE_BYTES // layout.PAGE_SIZE)
    names = first + pages * layout.PAGE_SIZE
    header = np.zeros(1, layout.HEADER)
    for name, value in (
        ("version", layout.VERSION),
        ("num_fields", 2),
        ("page_size", layout.PAGE_SIZE),
        ("num_samples", count),
        ("alloc_table_ptr", names),
    ):
        header[name] = value
    parts = [header, layout.field_descriptors(), metadata]
    with path.open("wb") as file:
        for part in parts:
            file.write(part.data)
        file.seek(names)
        file.write(table.data)
    tables = Tables(beton_length=names + table.nbytes, sha256=tables_sha256([*parts, table]))
    manifest_path(path).write_text(to_json(signed(_manifest(labels, first, pages, names, tables))))


def _manifest(labels: NDArray[np.int64], first_page: int, pages: int, names: int, tables: Tables) -> Manifest:
    counts = np.bincount(labels, minlength=CLASSES)
    return Manifest(
        format_version=FORMAT_VERSION,
        tool_version=tool_version(),
        num_images=len(labels),
        class_counts=counts.tolist(),
        class_names=[str(label) for label in range(CLASSES)],
        shots=Shots.of(counts),
        source=Source(kind="synthetic", name="none", sha256=""),
        settings={},
        source_paths=Region(offset=names, length=0),
        image_checksums=Region(offset=names, length=4 * len(labels)),
        skipped=0,
        tables=tables,
        checksums=Checksums(
            page_size=layout.PAGE_SIZE,
            first_page=first_page,
            header="",
            pages=[""] * pages,
            names="",
            allocation_table="",
        ),
        manifest_sha256="",
    )
