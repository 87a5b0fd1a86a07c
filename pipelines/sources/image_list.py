"""Data sets as lists of (image, label), held as a few arrays: ten million rows are not ten million strings.

`read_list` reads the lists of the long-tail literature, `path label` a row ("Large-Scale Long-Tailed
Recognition in an Open World", Liu et al., CVPR 2019, and its followers). A row is split at its last blank,
for paths have blanks too.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.user_error import UserError

MAX_CLASSES = 1_000_000
"""More classes than this is a mistake in the list, not a data set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageList:
    """n images with their labels, in the order of the source."""

    labels: np.ndarray
    """(n,) int32."""
    paths: bytes | bytearray
    """UTF-8 paths, relative to the image root, joined by newlines."""
    starts: np.ndarray
    """(n + 1,) int64: path i is paths[starts[i] : starts[i + 1] - 1]."""
    class_names: list[str]
    kind: str
    """The converter's subcommand that such a list belongs to."""
    name: str
    """Name of the list file, without its folder."""
    sha256: str
    """SHA-256 of the list file's bytes."""

    @property
    def num_classes(self) -> int:
        """The number of classes, those without images included."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, i: int) -> str:
        """Return the path of image i, as in the list."""
        return self.paths[self.starts[i] : self.starts[i + 1] - 1].decode()

    def class_counts(self) -> np.ndarray:
        """Return the (C,) int64 numbers of images."""
        return np.bincount(self.labels, minlength=self.num_classes)


def from_rows(
    paths: Iterable[str],
    labels: Iterable[int],
    class_names: list[str],
    *,
    kind: str,
    name: str,
    sha256: str | None = None,
) -> ImageList:
    """Make a list of a set that has no list file; there must be one row or more.

    Its digest, where `sha256` is not given, is that of the list file that it would have.
    """
    kept, joined, lengths, digest = array("i"), bytearray(), array("i"), hashlib.sha256()
    for path, label in zip(paths, labels, strict=True):
        encoded = path.encode()
        assert b"\n" not in encoded
        digest.update(b"%b %d\n" % (encoded, label))
        kept.append(label)
        joined += encoded
        joined += b"\n"
        lengths.append(len(encoded) + 1)
    assert kept
    del joined[-1]  # joined, not ended, by newlines
    return ImageList(
        labels=np.array(kept, np.int32),
        paths=joined,
        starts=np.concatenate([[0], np.cumsum(np.frombuffer(lengths, np.intc), dtype=np.int64)]),
        class_names=class_names,
        kind=kind,
        name=name,
        sha256=sha256 or digest.hexdigest(),
    )


def read_list(
    path: Path,
    *,
    num_classes: int | None = None,
    class_names: list[str] | None = None,
    allow_empty_classes: bool = False,
) -> ImageList:
    """Read a list file, a row `path label`: UTF-8, newlines of either kind, labels from 0.

    The number of classes is `num_classes`, else the number of `class_names`, else the largest label plus 1;
    classes without a name are called by their number. The same path may stand in several rows.

    Raises:
        UserError: the file cannot be read, has no rows or a malformed one (which is named), a label is not
        below
            the number of classes, a path leaves the image root, or a class has no images (unless allowed).
    """
    if class_names is not None and num_classes not in (None, len(class_names)):
        raise UserError(f"{len(class_names)} class names do not fit --num-classes {num_classes}")
    limit = num_classes or (len(class_names) if class_names else None)
    if limit is not None and limit > MAX_CLASSES:
        raise UserError(f"{limit:,} classes are more than the {MAX_CLASSES:,} that a list may have")
    labels, paths, lengths, sha256 = _read_rows(path, limit)
    if not labels:
        raise UserError(f"{path}: the list holds no rows; a row is `path label`")
    limit = limit or max(labels) + 1
    del paths[-1]  # joined, not ended, by newlines
    images = ImageList(
        labels=np.array(labels, np.int32),
        paths=paths,
        starts=np.concatenate([[0], np.cumsum(np.frombuffer(lengths, np.intc), dtype=np.int64)]),
        class_names=class_names or [str(label) for label in range(limit)],
        kind="list",
        name=path.name,
        sha256=sha256,
    )
    if not allow_empty_classes:
        check_no_empty_class(path, images)
    return images


def read_class_names(path: Path) -> list[str]:
    """Read class names, one a line in the order of the labels."""
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read the class names: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the class names are not UTF-8; save the file as UTF-8") from error
    names = [name.strip() for name in names]
    if "" in names or not names:
        raise UserError(f"{path}:{(names or ['']).index('') + 1}: a class has no name; write one name a line")
    return names


def _read_rows(path: Path, num_classes: int | None) -> tuple[array[int], bytearray, array[int], str]:
    """Return labels, paths each with a newline, their lengths with it, and the digest of the file."""
    labels, paths, lengths, digest = array("i"), bytearray(), array("i"), hashlib.sha256()
    blank = None  # number of the first blank line, which is fine only where no row follows it
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                digest.update(line)
                row = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not row.strip():
                    blank = blank or number
                    continue
                try:
                    if blank:
                        raise ValueError(f"line {blank} is blank, but only the end of a list may be")
                    image, label = _parse_row(row, num_classes or MAX_CLASSES)
                except ValueError as error:
                    text = row.rstrip().decode(errors="backslashreplace")[:200]
                    raise UserError(f"{path}:{number}: {error}; the row is {text!r}") from error
                labels.append(label)
                paths += image
                paths += b"\n"
                lengths.append(len(image) + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read the list: {error.strerror}") from error
    return labels, paths, lengths, digest.hexdigest()


def _parse_row(row: bytes, num_classes: int) -> tuple[bytes, int]:
    parts = row.rsplit(None, 1)
    if len(parts) != 2:
        raise ValueError("a row must be `path label`")
    image, label = parts
    if not label.isdigit():
        raise ValueError(f"the label {label.decode(errors='replace')[:40]!r} is no whole number from 0")
    if len(label) > 9 or int(label) >= num_classes:
        raise ValueError(
            f"label {label.decode()[:40]} is out of range for {num_classes} classes (labels start at 0)"
        )
    if not image.isascii():
        try:
            image.decode()
        except UnicodeDecodeError:
            raise ValueError("the path is not UTF-8; save the list as UTF-8") from None
    check_path(image)
    return image, int(label)


def check_path(image: bytes) -> None:
    """Raise ValueError if a path of a list leaves the image root, or holds what no list can hold."""
    if b"\0" in image or b"\r" in image or b"\n" in image:
        raise ValueError("the path holds a control character")
    if image.startswith(b"/") or (b".." in image and _leaves_root(image)):
        raise ValueError("the path leaves the image root; give it relative to --images, without `..`")


def _leaves_root(image: bytes) -> bool:
    depth = 0
    for part in image.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            return True
    return False


def check_no_empty_class(path: Path, images: ImageList) -> None:
    """Raise UserError, which names the list's file or folder `path`, if a class has no images."""
    empty = np.flatnonzero(images.class_counts() == 0)
    if len(empty):
        named = ", ".join(
            str(label)
            if images.class_names[label] == str(label)
            else f"{label} ({images.class_names[label]})"
            for label in empty[:5]
        )
        raise UserError(
            f"{path}: {len(empty)} of {images.num_classes} classes have no images: {named}"
            f"{', ...' if len(empty) > 5 else ''}; correct the labels, or give --allow-empty-classes"
        )
