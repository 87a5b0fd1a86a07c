"""The lists that papers use, and how a user's list differs from them.

A list of another origin (a row lost in a download, classes renumbered, a validation list taken for the test list)
trains without complaint and gives figures that compare with nobody's. So the lists of ImageNet-LT, Places-LT ("Large-
Scale Long-Tailed Recognition in an Open World", Liu et al., CVPR 2019) and iNaturalist 2018 are known here by git blob
id, as committed in the code bases of the field (facebookresearch/classifier-balancing), and by their counts. A copy
with other line ends, or without the final newline, is the same list.

ImageNet's validation images, which are ImageNet-LT's test images, lie on disks in two ways, `val/<wnid>/<image>` and
flat `val/<image>`, and the list comes in both: `fit_to_disk` turns the one into the other.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.sources.image_list import ImageList, from_rows
from pipelines.user_error import UserError


@dataclass(frozen=True)
class KnownList:
    """What is known of a published list."""

    name: str
    blob: str
    """Git blob id: SHA-1 of `blob <length>`, a zero byte and the file."""
    images: int
    classes: int
    largest: int
    """Images of the largest class."""
    smallest: int
    counts_sha256: str
    """SHA-256 of the class counts in the order of the labels, in decimals with a blank between."""
    rows_sha256: str | None = None
    """SHA-256 of the sorted rows `<file name> <label>`, without folders: of any order and path style."""
    sha256: str | None = None
    """SHA-256 of a copy in use elsewhere: TensorFlow Datasets' checksum."""
    flat_blob: str | None = None
    """Git blob id of the list in the flat path style, `val/<image>`."""


KNOWN_LISTS = {
    "imagenet-lt": (
        KnownList(
            "ImageNet_LT_train.txt",
            "a063f095fcd475db4cf8b0658c4b73955535bbf9",
            *(115_846, 1000, 1280, 5),
            "b8b7c69111e4ef5a6a24b3887752f1adf37c64bf89ddf4e9643ba851071d7f97",
            sha256="efdbdad4f050237c310b2f354cf95a8b1d7c8d57a63c4ea4bb6bf2bcb012f37f",
        ),
        KnownList(
            "ImageNet_LT_val.txt",
            "3ed3188b2f44829ce2dec1cc27040d8d40984088",
            *(20_000, 1000, 20, 20),
            "93c257df76d5faa5905cdd920a62bba25b8b7e62bcfb72b965e77ff8966e616e",
            "2502971071372637341c92d6ed4858bdfb9f9dc0df5c64c419a6ea0e93837293",
        ),
        KnownList(
            "ImageNet_LT_test.txt",
            "76a2fb9749d6cd29e765cc4f8c270f2504131e2f",
            *(50_000, 1000, 50, 50),
            "83b8e8861019974af78a4b602bac8e7497ab8465bed139ed3dff395bc4a4ceb3",
            "4138c0cd92d2dffea9353a9339c9f352361b7c6c267d2ff989b366f154188257",
            flat_blob="0b447ac5396339be4de1a91cb5b2b8cc7c73fb4b",
        ),
    ),
    "inaturalist18": (
        KnownList(
            "iNaturalist18_train.txt",
            "4accdb7584d2f0a5106c40a33ed6afa392189bcc",
            *(437_513, 8142, 1000, 2),
            "2180b821a3101dfd813b169c615449df272ce423b0760dbd9d52a4f5dc227df4",
        ),
        KnownList(
            "iNaturalist18_val.txt",
            "4c23900857fd0f5adcd4cc0dffef345039eeb05f",
            *(24_426, 8142, 3, 3),
            "ff89cb84b445fe2f3af7e307873c23873e76aeef86fabec4987cbd9268d13f3c",
            "00fc1f572bb94259a11796be48a3344fa21aa14f069349648b219592d0b42781",
        ),
    ),
    "places-lt": (
        KnownList(
            "Places_LT_train.txt",
            "6392252f8ae867bc8a5e841cc1b29e5b8ef4b636",
            *(62_500, 365, 4980, 5),
            "9e1621aeb7faef16be145cc13930511b381ba3eb392516722c1ce3d59ddf7fce",
            "f9f878cafef77c00d2031c2856af59800fa1553dbf167d4eabd2d4d0d7e0ad58",
        ),
        KnownList(
            "Places_LT_val.txt",
            "b93a2ca58ccb7f3b671c176f395a70bf52c95533",
            *(7300, 365, 20, 20),
            "9947fd4722b6619e4f9a69f5b119f6242a30bebc485d7aba5e5091b57cbc3e5b",
            "4c7abc922b7deb81727d56ce855d17855fac3bca268c53dda17a78f4bc3d4b4f",
        ),
        KnownList(
            "Places_LT_test.txt",
            "e732e58b8aa718a2c1c11933375f5710652c2b93",
            *(36_500, 365, 100, 100),
            "377320fcd99e525b520008653cadc3f655eb7184a339399f9664892a50791659",
            "81ae0b5c57f5e472a85e43d598682d5bba2c0a77bc9678211ef2a1f1592b87ba",
        ),
    ),
}
"""By subcommand: train, validation and test list."""


@dataclass(frozen=True)
class Comparison:
    """A user's list beside the published one that it is closest to."""

    known: KnownList
    differences: list[str]
    """What it differs in, in words; nothing where the rows are the published ones, in their order."""


def compare_with_known(path: Path, images: ImageList, dataset: str) -> Comparison:
    """Compare a list, read from `path`, with the published list of `dataset` that has the nearest number of rows.

    Raises:
        UserError: the file cannot be read any more.
    """
    nearest = min(KNOWN_LISTS[dataset], key=lambda known: abs(known.images - len(images)))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the list: {error.strerror}") from error
    rows = data.replace(b"\r\n", b"\n").rstrip(b"\n")
    copies = (data, rows, rows + b"\n")
    blobs = {git_blob(copy) for copy in copies}
    if blobs & {nearest.blob, nearest.flat_blob} or nearest.sha256 in {_sha256(copy) for copy in copies}:
        return Comparison(nearest, [])
    return Comparison(nearest, _differences(images, nearest))


def known_by_counts(images: ImageList, dataset: str) -> KnownList | None:
    """Return the published list of `dataset` that has these class counts; None where there is none."""
    digest = counts_sha256(images.class_counts())
    return next((known for known in KNOWN_LISTS[dataset] if known.counts_sha256 == digest), None)


def git_blob(data: bytes) -> str:
    """Return the id that git gives a file of these bytes."""
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


def counts_sha256(counts: np.ndarray) -> str:
    """Return the digest of (C,) class counts, see `KnownList.counts_sha256`."""
    return _sha256(" ".join(map(str, counts.tolist())).encode())


def rows_sha256(images: ImageList) -> str:
    """Return the digest of the rows whatever their order and folders, see `KnownList.rows_sha256`."""
    rows = sorted(
        b"%b %d\n" % (path.rpartition(b"/")[2], label)
        for path, label in zip(bytes(images.paths).split(b"\n"), images.labels.tolist(), strict=True)
    )
    return _sha256(b"".join(rows))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _differences(images: ImageList, known: KnownList) -> list[str]:
    counts = images.class_counts()
    if counts_sha256(counts) == known.counts_sha256:
        if known.rows_sha256 is None:
            return ["images, paths or order (the class counts are the same)"]
        if rows_sha256(images) == known.rows_sha256:
            return ["the order of its rows, or the folders in their paths (images and labels are the same)"]
        return ["images (the class counts are the same)"]
    figures = (
        ("number of images", len(images), known.images),
        ("number of classes", images.num_classes, known.classes),
        ("size of the largest class", int(counts.max()), known.largest),
        ("size of the smallest class", int(counts.min()), known.smallest),
    )
    differ = [f"{what} ({found:,}, not {wanted:,})" for what, found, wanted in figures if found != wanted]
    return differ or ["the sizes of its classes, or their labels"]


def fit_to_disk(images: ImageList, root: Path) -> ImageList:
    """Return the list with the paths of ImageNet's validation images in the style that `root` has.

    The first row decides. Where it is found, or is in neither style, the list is returned as it is, and so it is
    where the other style is not on the disk either: the converter then names what is missing. From flat to folders,
    label c is the c-th of the sorted class folders, the label order of ImageNet-LT.
    """
    first = images.path(0)
    parts = first.split("/")
    if parts[0] != "val" or _exists(root / first):
        return images
    if len(parts) == 3 and _exists(root / "val" / parts[2]):
        return _with_paths(images, ["val/" + images.path(i).rpartition("/")[2] for i in range(len(images))])
    if len(parts) == 2 and len(folders := _folders(root / "val")) == images.num_classes:
        labels = images.labels.tolist()
        names = (images.path(i).rpartition("/")[2] for i in range(len(labels)))
        paths = [f"val/{folders[label]}/{name}" for name, label in zip(names, labels, strict=True)]
        return _with_paths(images, paths)
    return images


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, a folder that is closed: not there for us
        return False


def _folders(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    except OSError:
        return []


def _with_paths(images: ImageList, paths: list[str]) -> ImageList:
    made = from_rows(
        paths,
        images.labels.tolist(),
        images.class_names,
        kind=images.kind,
        name=images.name,
        sha256=images.sha256,
    )
    return dataclasses.replace(images, paths=made.paths, starts=made.starts)
