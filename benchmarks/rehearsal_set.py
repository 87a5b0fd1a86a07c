"""A published long-tailed set at its true count, in tiny pictures: the lists.

What breaks at 115,846 or 437,513 images is seldom a picture; it is memory that grows with the rows, a path, the end of
an epoch. So the lists are the real ones where they are at hand. Where they are not, they are rows of the same form with
exactly the published number of each class: ImageNet-LT's class by class, iNaturalist's shuffled, as the lists that are
public are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.sources.image_list import read_list
from pipelines.sources.known_lists import KNOWN_LISTS, counts_sha256

COUNTS = Path(__file__).with_name("class_counts")
"""Holds a file a set: lines that start with # say where the numbers are from."""


@dataclass(frozen=True, kw_only=True)
class SetForm:
    """How the lists of a set look."""

    config: str
    """In configs/, what it is trained with."""
    test: str
    """Name of the list that the config evaluates on."""
    class_folder: str
    """Of a class whose real folder is not known; {label} stands for its number."""
    train_path: str
    """{folder} is the class's, {name} the last part of that, {i} the row's number."""
    test_path: str
    shuffled: bool
    """Whether the rows are in no order of the classes."""


SETS = {
    "imagenet-lt": SetForm(
        config="imagenet_lt_glmc_head.yaml",
        test="ImageNet_LT_test.txt",
        class_folder="n{label:08d}",
        train_path="train/{folder}/{name}_{i}.JPEG",
        test_path="val/{folder}/ILSVRC2012_val_{i:08d}.JPEG",
        shuffled=False,
    ),
    "inaturalist18": SetForm(
        config="inaturalist18_glmc_head.yaml",
        test="iNaturalist18_val.txt",
        class_folder="Species/{label}",
        train_path="train_val2018/{folder}/{i:032x}.jpg",
        test_path="train_val2018/{folder}/{i:032x}.jpg",
        shuffled=True,
    ),
}
"""By the converter's subcommand."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The list of one split, written down where the rehearsal is."""

    name: str
    """train or test."""
    listed: Path
    counts: np.ndarray
    """(C,) int64 rows of each class."""
    origin: str
    """In words: whose rows they are."""

    @property
    def num_rows(self) -> int:
        """Rows of the list."""
        return int(self.counts.sum())


def published_counts(dataset: str) -> np.ndarray:
    """The (C,) int64 training images of each class, which this repository holds."""
    lines = (COUNTS / f"{dataset}.txt").read_text(encoding="utf-8").splitlines()
    numbers = " ".join(line for line in lines if not line.startswith("#")).split()
    counts = np.array(numbers, np.int64)
    assert counts_sha256(counts) == KNOWN_LISTS[dataset][0].counts_sha256, "not the published counts"
    return counts


def write_lists(dataset: str, lists: Path, scale: float, folder: Path) -> list[Split]:
    """Write the lists of training and test set into `folder`; real ones are looked for in the folder `lists`.

    Below 1, `scale` keeps that share of the rows of each class, the first ones and at least one.
    """
    form, (train, *others) = SETS[dataset], KNOWN_LISTS[dataset]
    test = next(one for one in others if one.name == form.test)
    counts = published_counts(dataset)
    of_test = np.full(len(counts), test.largest, np.int64)  # its classes are all of one size
    folders = _class_folders(form, [lists / train.name, lists / test.name], len(counts))
    splits = []
    for name, known, path, wanted in (
        ("train", train, form.train_path, counts),
        ("test", test, form.test_path, of_test),
    ):
        real = lists / known.name
        if real.is_file():
            content, origin = real.read_bytes(), str(real)
        else:
            content = _made_rows(form, path, wanted, folders)
            origin = f"made, with the class counts of {known.name}"
        if scale < 1:
            content, origin = _first_of_each_class(content, scale), f"{origin}, {scale:g} of each class"
        listed = folder / known.name
        listed.write_bytes(content)
        splits.append(Split(name=name, listed=listed, counts=read_list(listed).class_counts(), origin=origin))
    return splits


def _class_folders(form: SetForm, lists: list[Path], num_classes: int) -> list[str]:
    """The folder of each class: as in the first list that is there, between the first part and the file's name."""
    folders = [form.class_folder.format(label=label) for label in range(num_classes)]
    found = next((path for path in lists if path.is_file()), None)
    for row in found.read_text(encoding="utf-8").splitlines() if found else ():
        path, label = row.rsplit(" ", 1)
        folders[int(label)] = "/".join(path.split("/")[1:-1])
    return folders


def _made_rows(form: SetForm, path: str, counts: np.ndarray, folders: list[str]) -> bytes:
    labels = np.repeat(np.arange(len(counts)), counts)
    if form.shuffled:
        labels = np.random.default_rng(len(labels)).permutation(labels)
    # numbered from the number of rows, so that no file of one split has the name of one of the other's
    return "".join(
        f"{path.format(folder=folders[label], name=folders[label].rpartition('/')[2], i=i)} {label}\n"
        for i, label in enumerate(labels.tolist(), len(labels))
    ).encode()


def _first_of_each_class(content: bytes, scale: float) -> bytes:
    rows = content.decode().splitlines()
    labels = np.array([int(row.rsplit(" ", 1)[1]) for row in rows])
    kept = np.maximum(1, np.round(scale * np.bincount(labels)))
    seen = [0] * len(kept)
    lines = []
    for row, label in zip(rows, labels.tolist(), strict=True):
        if seen[label] < kept[label]:
            lines.append(row)
        seen[label] += 1
    return ("\n".join(lines) + "\n").encode()
