"""Open a beton: labels and sizes of all images at once, the bytes of sample i without a copy.

FFCV's Reader believes every byte of a file, and its Loader's memory manager takes seconds and hundreds of
megabytes at a million samples. Here nothing is believed: a file that is truncated, unfinished, foreign or
beside another file's manifest is refused with a sentence that says so. Everything is done with whole
arrays; 33 bytes a sample are kept.

The file is mapped; on a network file system images are read instead (network_files.py).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipelines.beton import format as layout
from pipelines.beton.manifest import Manifest, manifest_path, read_manifest, tables_sha256
from pipelines.beton.network_files import PreadFile, network_file_system
from pipelines.sources.image_list import MAX_CLASSES
from pipelines.user_error import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class BetonFile:
    """An open beton of n images and C classes; see `open_beton`."""

    path: Path
    labels: np.ndarray
    """(n,) int64."""
    heights: np.ndarray
    """(n,) int32, pixels."""
    widths: np.ndarray
    """(n,) int32, pixels."""
    counts: np.ndarray
    """(C,) int64: images of each class."""
    class_names: list[str]
    manifest: Manifest | None
    """None for a beton that another tool wrote."""
    modes: np.ndarray
    """(n,) uint8: JPEG_MODE or RAW_MODE."""
    offsets: np.ndarray
    """(n,) int64: where the bytes of each image start."""
    sizes: np.ndarray
    """(n,) int64: bytes of each image."""
    content: np.ndarray
    """The whole file, uint8, mapped and read-only."""
    digest: str
    """SHA-256 of the tables: labels, and where and how large each image is. A copy has the same."""
    images_by_pread: PreadFile | None = None
    """What reads the images; None: they are views of `content`."""

    @property
    def num_images(self) -> int:
        """n."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.counts)

    def image_bytes(self, i: int) -> np.ndarray:
        """Return image i, (size,) uint8 JPEG bytes or (h, w, 3) raw RGB pixels: a read-only view of the mapped file,
        or memory of its own where the file is read."""
        data = self._bytes(int(self.offsets[i]), int(self.sizes[i]))
        if self.modes[i] == layout.RAW_MODE:
            return data.reshape(int(self.heights[i]), int(self.widths[i]), 3)
        return data

    def source_path(self, i: int) -> str | None:
        """Return the path of image i in the source list, or None where no manifest says where it is."""
        if self.manifest is None:
            return None
        region = self.manifest.source_paths
        ends = self._source_path_ends
        start = region.offset + (int(ends[i - 1]) + 1 if i > 0 else 0)
        return self.content[start : region.offset + int(ends[i])].tobytes().decode(errors="replace")

    @cached_property
    def _source_path_ends(self) -> np.ndarray:
        """(n,) int64, relative to the region; made on the first call, for few programs name an image."""
        assert self.manifest is not None
        region = self.manifest.source_paths
        newlines = np.flatnonzero(self.content[region.offset : region.offset + region.length] == ord("\n"))
        if len(newlines) != self.num_images - 1:
            raise UserError(
                f"{self.path}: the source paths inside the file are damaged "
                f"({len(newlines) + 1} for {self.num_images} images); copy or convert it again"
            )
        return np.append(newlines, region.length)

    def raw_images(self) -> np.ndarray | None:
        """Return a copy of all images, (n, h, w, 3) uint8, or None unless all are raw and of one size."""
        height, width = int(self.heights[0]), int(self.widths[0])
        alike = (self.modes == layout.RAW_MODE) & (self.heights == height) & (self.widths == width)
        if not alike.all():
            return None
        size = height * width * 3
        images = np.empty((self.num_images, size), np.uint8)
        # Images that follow each other in the file are copied together: a run a page, not an image.
        starts = np.flatnonzero(np.diff(self.offsets, prepend=-size - 1) != size)
        for first, after in zip(starts, np.append(starts[1:], self.num_images), strict=True):
            begin = int(self.offsets[first])
            images[first:after] = self._bytes(begin, (after - first) * size).reshape(-1, size)
        return images.reshape(-1, height, width, 3)

    def _bytes(self, start: int, length: int) -> np.ndarray:
        if self.images_by_pread is not None:
            return self.images_by_pread.read(start, length)
        return self.content[start : start + length]


def open_beton(path: str | Path, *, pread: bool | None = None) -> BetonFile:
    """Open a beton and check its header, tables, length and manifest.

    `pread` says whether images are read or mapped; by default they are read on a network file system only.

    A beton without a manifest (stock FFCV wrote it) opens with a UserWarning: its classes are counted from
    its labels and called by their numbers.

    Raises:
        UserError: the file is missing, truncated, unfinished, of another kind, inconsistent, or does not
        fit its
            manifest.
    """
    path = Path(path)
    try:
        content = np.memmap(path, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        reason = getattr(error, "strerror", None) or "the file is empty"
        raise UserError(f"{path}: cannot open the beton: {reason}") from error
    pread = network_file_system(path) is not None if pread is None else pread
    header = _read_header(path, content)
    descriptors, metadata, allocations = _read_tables(path, content, header)
    image, sizes = metadata["image"], _sizes(path, header, metadata, allocations)
    labels = metadata["label"].astype(np.int64)
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(f"{path}: label {wrong} is no class number (from 0); write the file again")
    digest = tables_sha256([header, descriptors, metadata, allocations])
    manifest = _fitting_manifest(path, len(content), labels, digest)
    counts = np.bincount(labels, minlength=len(manifest.class_counts) if manifest else 0)
    return BetonFile(
        path=path,
        labels=labels,
        heights=image["height"].astype(np.int32),
        widths=image["width"].astype(np.int32),
        counts=counts,
        class_names=manifest.class_names if manifest else [str(label) for label in range(len(counts))],
        manifest=manifest,
        modes=np.ascontiguousarray(image["mode"]),
        offsets=image["data_ptr"].astype(np.int64),
        sizes=sizes,
        content=content,
        digest=digest,
        images_by_pread=PreadFile(path) if pread else None,
    )


def _read_header(path: Path, content: np.ndarray) -> np.ndarray:
    """Return the header, (1,) HEADER, of a file that claims to be a whole beton."""
    if len(content) < layout.HEADER.itemsize:
        raise UserError(f"{path}: truncated: {len(content)} bytes are no beton; copy or convert it again")
    header = content[: layout.HEADER.itemsize].view(layout.HEADER)
    version, page_size = int(header["version"][0]), int(header["page_size"][0])
    if version != layout.VERSION and content[: layout.HEADER.itemsize].any():
        raise UserError(
            f"{path}: not a beton of version {layout.VERSION} (the file says {version}); give a file that "
            "tools/convert_datasets.py or FFCV wrote"
        )
    if header["alloc_table_ptr"][0] == 0:
        raise UserError(f"{path}: unfinished: whatever wrote it stopped before the end; convert it again")
    if page_size == 0 or page_size & (page_size - 1):
        raise UserError(f"{path}: damaged header: a page of {page_size} bytes; copy or convert it again")
    return header


def _read_tables(
    path: Path, content: np.ndarray, header: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return field descriptors, metadata and allocation table, once they are known to lie inside the file."""
    num_samples, table_start = int(header["num_samples"][0]), int(header["alloc_table_ptr"][0])
    start = layout.HEADER.itemsize
    after = start + 2 * layout.FIELD_DESCRIPTOR.itemsize
    if len(content) < after:
        raise UserError(f"{path}: truncated within its header; copy or convert it again")
    descriptors = content[start:after].view(layout.FIELD_DESCRIPTOR)
    types = [int(type_id) for type_id in descriptors["type_id"]]
    if header["num_fields"][0] != 2 or sorted(types) != [layout.INT_FIELD, layout.IMAGE_FIELD]:
        named = ", ".join(layout.FIELD_NAMES.get(type_id, f"type {type_id}") for type_id in types)
        raise UserError(
            f"{path}: holds {header['num_fields'][0]} fields ({named}), but two are wanted, an image and an "
            "int (the label); write it with these fields, or convert the images again"
        )
    if num_samples == 0:
        raise UserError(f"{path}: holds no images; convert it again from a list with rows")
    dtype = layout.metadata_dtype(image_first=types[0] == layout.IMAGE_FIELD)
    table_length = num_samples * layout.ALLOCATION.itemsize
    if table_start + table_length != len(content):
        raise UserError(
            f"{path}: truncated or damaged: its header says {table_start + table_length:,} bytes "
            f"({num_samples:,} images), but the file has {len(content):,}; copy or convert it again"
        )
    if after + num_samples * dtype.itemsize > table_start:
        raise UserError(f"{path}: damaged header: its tables overlap; copy or convert it again")
    metadata = content[after : after + num_samples * dtype.itemsize].view(dtype)
    return descriptors, metadata, content[table_start:].view(layout.ALLOCATION)


def _sizes(path: Path, header: np.ndarray, metadata: np.ndarray, allocations: np.ndarray) -> np.ndarray:
    """Return the (n,) int64 bytes of each image, once every image is known to lie inside the file."""
    image, samples = metadata["image"], allocations["sample_id"]
    first = layout.HEADER.itemsize + 2 * layout.FIELD_DESCRIPTOR.itemsize + metadata.nbytes
    last = header["alloc_table_ptr"][0]
    sizes = np.zeros(len(metadata), np.uint64)
    inside = samples < len(metadata)
    pointers = np.zeros_like(sizes)
    sizes[samples[inside]] = allocations["size"][inside]
    pointers[samples[inside]] = allocations["ptr"][inside]
    pixels = image["height"].astype(np.uint64) * image["width"]
    faults = {
        "the allocation table names it wrongly": (pointers != image["data_ptr"]) | (sizes == 0) | ~inside,
        "it lies outside the pages": (pointers < first) | (pointers > last) | (sizes > last - pointers),
        "its size in pixels is zero": pixels == 0,
        "it is neither JPEG nor raw pixels": image["mode"] > layout.RAW_MODE,
        "its bytes do not fit its size": (image["mode"] == layout.RAW_MODE) & (sizes != 3 * pixels),
    }
    for fault, wrong in faults.items():
        if wrong.any():
            raise UserError(
                f"{path}: damaged: {int(wrong.sum()):,} images are wrong, the first is image "
                f"{int(wrong.argmax())}: {fault}; copy or convert it again"
            )
    return sizes.astype(np.int64)


def _fitting_manifest(path: Path, length: int, labels: np.ndarray, digest: str) -> Manifest | None:
    """Return the manifest beside the beton, once it is known to be this beton's; None if there is none."""
    beside = manifest_path(path)
    if not beside.exists():
        warnings.warn(
            f"{path}: no manifest {beside.name} beside it; its classes are counted from its labels, unnamed",
            UserWarning,
            stacklevel=3,
        )
        return None
    manifest = read_manifest(beside)
    wrong = None
    if manifest.tables.beton_length != length:
        wrong = f"the beton has {length:,} bytes, the manifest says {manifest.tables.beton_length:,}"
    elif manifest.tables.sha256 != digest:
        wrong = "the digests of their tables differ"
    elif np.bincount(labels, minlength=len(manifest.class_counts)).tolist() != manifest.class_counts:
        wrong = "the class counts differ"
    elif manifest.source_paths.offset + manifest.source_paths.length > length:
        wrong = "the source paths would lie outside the file"
    if wrong:
        raise UserError(
            f"{path}: does not fit its manifest {beside.name}: {wrong}; one of the two is damaged or belongs "
            "to another file: copy both again, or convert again with --overwrite"
        )
    return manifest
