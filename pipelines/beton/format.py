"""The beton file format (FFCV's version 2, little endian) as data: the writer and the reader both import it.

    header                24 bytes
    field descriptors     1,041 bytes each: the image, then the label
    metadata table        24 bytes a sample: mode, width, height and pointer of the image; the label
    zeros up to a multiple of the page size
    pages                 each sample's bytes lie inside one page
    [source paths]        ours: starts on a page boundary, named by the manifest; stock FFCV never looks at it
    allocation table      to the end of the file: 24 bytes a sample

The layout is that of `ffcv/types.py` and `ffcv/fields/rgb_image.py` (libffcv/ffcv 1.0.2), so that FFCV's
own Loader reads what is written here. A header whose `alloc_table_ptr` is 0 belongs to a file that was
never finished.
"""

from __future__ import annotations

import numpy as np

VERSION = 2
PAGE_SIZE = 8 << 20
"""Bytes a page; FFCV's own default."""
SMALLEST_PAGE = 2 << 20
"""Bytes; FFCV's own lower limit."""

INT_FIELD = 1
IMAGE_FIELD = 2
FIELD_NAMES = {
    0: "float",
    1: "int",
    2: "image",
    3: "bytes",
    4: "array",
    5: "JSON",
    6: "tensor",
    255: "custom",
}
"""FFCV's type ids, in words."""

JPEG_MODE = 0
RAW_MODE = 1

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)

FIELD_DESCRIPTOR = np.dtype([("type_id", "u1"), ("name", "u1", (16,)), ("arguments", "u1", (1024,))])
"""The arguments are zeros for both of our fields, as their `to_binary` in FFCV gives them."""

IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
LABEL = np.dtype("<i8")

ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


def metadata_dtype(image_first: bool = True) -> np.dtype[np.void]:
    """Return one row of the metadata table, fields `image` and `label`, padded as FFCV pads it (24 bytes)."""
    columns = [("image", IMAGE), ("label", LABEL)]
    return np.dtype(columns if image_first else columns[::-1], align=True)


def field_descriptors() -> np.ndarray:
    """Return the descriptors of our two fields, `image` and `label`."""
    descriptors = np.zeros(2, FIELD_DESCRIPTOR)
    for row, (type_id, name) in zip(
        descriptors, [(IMAGE_FIELD, b"image"), (INT_FIELD, b"label")], strict=True
    ):
        row["type_id"] = type_id
        row["name"][: len(name)] = np.frombuffer(name, np.uint8)
    return descriptors


def align(position: int, size: int) -> int:
    """Return the first multiple of `size` that is not before `position`."""
    return -(-position // size) * size
