"""CIFAR-10 and CIFAR-100 from the files that torchvision downloads, or from the binary version beside them.

The Python version is pickles, which `pipelines.sources.inert_pickle` reads without running them. The binary version
(`cifar-10-batches-bin`, `cifar-100-binary`) is taken where it is there.

Formats: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.sources.inert_pickle import InertArray, read_inert_pickle
from pipelines.user_error import UserError

SIDE = 32
"""Pixels."""
PIXEL_BYTES = 3 * SIDE * SIDE
"""Of one image: red, green and blue plane."""


@dataclass(frozen=True, kw_only=True)
class CifarFormat:
    """Where a set's files stand and what is in them."""

    name: str
    num_classes: int
    python_folder: str
    binary_folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    rows: dict[str, int]
    """Images of a whole split."""
    label_key: str
    """The Python files' key of the labels."""
    label_bytes: int
    """Of a binary record; the last one is the label."""
    binary_names: str
    """The binary version's file of class names."""
    python_names: tuple[str, str]
    """The Python version's file of class names, and its key."""
    python_md5: Mapping[str, str]
    """Of the Python version's files, as torchvision checks them."""


CIFAR10 = CifarFormat(
    name="cifar10",
    num_classes=10,
    python_folder="cifar-10-batches-py",
    binary_folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test_files=("test_batch",),
    rows={"train": 50_000, "test": 10_000},
    label_key="labels",
    label_bytes=1,
    binary_names="batches.meta.txt",
    python_names=("batches.meta", "label_names"),
    python_md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
CIFAR100 = CifarFormat(
    name="cifar100",
    num_classes=100,
    python_folder="cifar-100-python",
    binary_folder="cifar-100-binary",
    train_files=("train",),
    test_files=("test",),
    rows={"train": 50_000, "test": 10_000},
    label_key="fine_labels",
    label_bytes=2,
    binary_names="fine_label_names.txt",
    python_names=("meta", "fine_label_names"),
    python_md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)


@dataclass(frozen=True, kw_only=True, eq=False)
class CifarSplit:
    """All images of a split, in the order of the files."""

    pixels: np.ndarray
    """(n, 3072) uint8: red, green, blue plane, each row by row."""
    labels: np.ndarray
    """(n,) int64."""
    class_names: list[str]


def read_cifar(data: Path, cifar: CifarFormat, split: str) -> CifarSplit:
    """Read `train` or `test` from `data`: the folder of the files, or the folder which holds that.

    Raises:
        UserError: the files are not there, cannot be read, are no CIFAR files, or are not whole.
    """
    folder, binary = _find(data, cifar)
    files = {"train": cifar.train_files, "test": cifar.test_files}[split]
    read = _read_binary if binary else _read_python
    parts = [read(folder / (name + ".bin" if binary else name), cifar) for name in files]
    pixels = np.concatenate([part for part, _ in parts])
    labels = np.concatenate([part for _, part in parts])
    if len(labels) != cifar.rows[split]:
        raise UserError(
            f"{folder}: {len(labels):,} {split} images, but {cifar.name} has {cifar.rows[split]:,}; "
            "download the files again"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < cifar.num_classes:
        raise UserError(
            f"{folder}: a label is outside 0 to {cifar.num_classes - 1}; download the files again"
        )
    if len(set(np.bincount(labels, minlength=cifar.num_classes))) != 1:
        raise UserError(f"{folder}: the {split} classes are not of one size; download the files again")
    return CifarSplit(pixels=pixels, labels=labels, class_names=_class_names(folder, binary, cifar))


def unpublished_files(data: Path, cifar: CifarFormat) -> list[Path]:
    """Return the Python version's files whose bytes are not the published ones; none of the binary version's.

    Raises:
        UserError: the files are not there, or cannot be read.
    """
    folder, binary = _find(data, cifar)
    published = {} if binary else cifar.python_md5
    return [
        folder / name
        for name, md5 in published.items()
        if hashlib.md5(_read_bytes(folder / name), usedforsecurity=False).hexdigest() != md5
    ]


def _find(data: Path, cifar: CifarFormat) -> tuple[Path, bool]:
    """Return the folder of the files, and whether they are the binary version."""
    for name, binary in ((cifar.binary_folder, True), (cifar.python_folder, False)):
        for folder in (data / name, data):
            try:
                if (folder / (cifar.train_files[0] + ".bin" * binary)).is_file():
                    return folder, binary
            except OSError as error:
                raise UserError(f"{folder}: cannot look into the folder: {error.strerror}") from error
    raise UserError(
        f"{data}: neither {cifar.binary_folder} nor {cifar.python_folder} is here; give the folder that "
        "torchvision downloaded to, or unpack the archive there"
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the file: {error.strerror}") from error


def _read_binary(path: Path, cifar: CifarFormat) -> tuple[np.ndarray, np.ndarray]:
    data = np.frombuffer(_read_bytes(path), np.uint8)
    record = cifar.label_bytes + PIXEL_BYTES
    if len(data) % record:
        raise UserError(
            f"{path}: {len(data):,} bytes are no whole number of records of {record}; download it again"
        )
    records = data.reshape(-1, record)
    return records[:, cifar.label_bytes :], records[:, cifar.label_bytes - 1].astype(np.int64)


def _read_python(path: Path, cifar: CifarFormat) -> tuple[np.ndarray, np.ndarray]:
    content = read_inert_pickle(path)
    pixels, labels = content.get("data"), content.get(cifar.label_key)
    if not isinstance(pixels, InertArray) or not isinstance(labels, list):
        raise UserError(f"{path}: no CIFAR file: `data` or `{cifar.label_key}` is missing; download it again")
    if not all(type(label) is int and 0 <= label < cifar.num_classes for label in labels):
        raise UserError(f"{path}: a label is outside 0 to {cifar.num_classes - 1}; download it again")
    values = np.frombuffer(pixels.raw_bytes(path), np.uint8)
    if len(values) != len(labels) * PIXEL_BYTES:
        raise UserError(
            f"{path}: {len(values):,} bytes of pixels for {len(labels):,} labels; download it again"
        )
    return values.reshape(-1, PIXEL_BYTES), np.array(labels, np.int64)


def _class_names(folder: Path, binary: bool, cifar: CifarFormat) -> list[str]:
    if binary:
        path = folder / cifar.binary_names
        names: Any = _read_bytes(path).decode(errors="replace").split()
    else:
        path = folder / cifar.python_names[0]
        names = read_inert_pickle(path).get(cifar.python_names[1])
    if (
        not isinstance(names, list)
        or len(names) != cifar.num_classes
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise UserError(f"{path}: does not name the {cifar.num_classes} classes; download the files again")
    return names
