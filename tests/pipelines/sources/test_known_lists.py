"""The published lists are recognised, and what a changed copy differs in is said in words."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipelines.sources.image_list import ImageList, from_rows, read_list
from pipelines.sources.known_lists import (
    KNOWN_LISTS,
    compare_with_known,
    counts_sha256,
    fit_to_disk,
    git_blob,
    known_by_counts,
)

LISTS = [
    ("imagenet-lt", "ImageNet_LT_val.txt"),
    ("imagenet-lt", "ImageNet_LT_test.txt"),
    ("inaturalist18", "iNaturalist18_val.txt"),
    ("places-lt", "Places_LT_train.txt"),
]


def differences(path: Path, dataset: str, content: bytes) -> list[str]:
    path.write_bytes(content)
    images = read_list(path, allow_empty_classes=True)
    return compare_with_known(path, images, dataset).differences


def paths_of(images: ImageList) -> list[str]:
    return [images.path(i) for i in range(len(images))]


@pytest.mark.parametrize(("dataset", "name"), LISTS)
def test_published_lists_are_known(shared_data: Path, tmp_path: Path, dataset: str, name: str) -> None:
    data = (shared_data / name).read_bytes()
    found = compare_with_known(shared_data / name, read_list(shared_data / name), dataset)
    assert (found.known.name, found.differences) == (name, [])
    # The facts, counted by other means.
    labels = [int(line.split()[-1]) for line in data.decode().splitlines()]
    counts = [labels.count(c) for c in range(5)]
    assert counts == np.bincount(labels)[:5].tolist()
    known = found.known
    assert (known.images, known.classes) == (len(labels), len(set(labels)))
    assert (known.largest, known.smallest) == (np.bincount(labels).max(), np.bincount(labels).min())
    copy = tmp_path / "copy.txt"
    assert differences(copy, dataset, data.rstrip(b"\n")) == []
    assert differences(copy, dataset, data.replace(b"\n", b"\r\n")) == []


@pytest.mark.parametrize(("dataset", "name"), LISTS)
def test_what_a_changed_copy_differs_in(shared_data: Path, tmp_path: Path, dataset: str, name: str) -> None:
    lines = (shared_data / name).read_bytes().splitlines(keepends=True)
    copy = tmp_path / "copy.txt"
    same = "the order of its rows, or the folders in their paths (images and labels are the same)"
    assert differences(copy, dataset, b"".join(reversed(lines))) == [same]
    moved = [b"elsewhere/" + line for line in lines]
    assert differences(copy, dataset, b"".join(moved)) == [same]
    other = [lines[0].replace(b".", b"x."), *lines[1:]]
    assert differences(copy, dataset, b"".join(other)) == ["images (the class counts are the same)"]
    short = differences(copy, dataset, b"".join(lines[:-1]))
    assert short[0] == f"number of images ({len(lines) - 1:,}, not {len(lines):,})"


def test_the_flat_test_list_is_known_too(shared_data: Path, tmp_path: Path) -> None:
    rows = (shared_data / "ImageNet_LT_test.txt").read_text().splitlines()
    flat = "".join(f"val/{row.split('/')[2]}\n" for row in rows)
    assert differences(tmp_path / "copy.txt", "imagenet-lt", flat.encode()) == []
    assert differences(tmp_path / "copy.txt", "imagenet-lt", flat.replace("val/", "", 1).encode()) != []


def test_classes_and_sizes_that_differ(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "Places_LT_train.txt").read_text().splitlines()
    rows = [line.rsplit(" ", 1) for line in lines]
    swapped = {0: 1, 1: 0}
    copy = tmp_path / "copy.txt"
    text = "".join(f"{path} {swapped.get(int(label), label)}\n" for path, label in rows)
    assert differences(copy, "places-lt", text.encode()) == ["the sizes of its classes, or their labels"]
    text = "".join(f"{path} {label}\n" for path, label in rows if int(label) < 364)
    found = differences(copy, "places-lt", text.encode())
    assert "number of classes (364, not 365)" in found


def test_training_lists_are_known_by_their_counts(shared_data: Path) -> None:
    published = json.loads((shared_data / "class_counts.json").read_text())
    for dataset, key in (("imagenet-lt", "ImageNet-LT"), ("inaturalist18", "iNaturalist18")):
        known, counts = KNOWN_LISTS[dataset][0], np.array(published[key])
        assert known.counts_sha256 == counts_sha256(counts)
        figures = (counts.sum(), len(counts), counts.max(), counts.min())
        assert (known.images, known.classes, known.largest, known.smallest) == figures


def test_a_set_is_known_by_its_class_counts(shared_data: Path) -> None:
    counts = json.loads((shared_data / "class_counts.json").read_text())["iNaturalist18"]
    labels = np.repeat(np.arange(len(counts)), counts).tolist()
    names = [str(c) for c in range(len(counts))]

    def made(labels: list[int]) -> ImageList:
        return from_rows(("x" for _ in labels), labels, names, kind="inaturalist-json", name="train2018.json")

    known = known_by_counts(made(labels), "inaturalist18")
    assert known is not None and known.name == "iNaturalist18_train.txt"
    assert known_by_counts(made(labels[1:]), "inaturalist18") is None


def test_a_training_list_of_the_same_counts(shared_data: Path, tmp_path: Path) -> None:
    counts = json.loads((shared_data / "class_counts.json").read_text())["ImageNet-LT"]
    text = "".join(f"train/n{c:08d}/{i}.JPEG {c}\n" for c, count in enumerate(counts) for i in range(count))
    assert differences(tmp_path / "copy.txt", "imagenet-lt", text.encode()) == [
        "images, paths or order (the class counts are the same)"
    ]


def test_blob_ids_are_gits(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a row 1\nb row 2\n")
    said = subprocess.run(["git", "hash-object", path], check=True, capture_output=True, text=True).stdout
    assert git_blob(path.read_bytes()) == said.strip()


ROWS = [("n02", "b.JPEG", 1), ("n01", "a.JPEG", 0), ("n03", "c.JPEG", 2), ("n01", "d.JPEG", 0)]
FOLDERS = [f"val/{folder}/{name}" for folder, name, _ in ROWS]
FLAT = [f"val/{name}" for _, name, _ in ROWS]


@pytest.mark.parametrize("listed", [FOLDERS, FLAT])
@pytest.mark.parametrize("on_disk", [FOLDERS, FLAT])
def test_either_path_style_finds_either_disk(tmp_path: Path, listed: list[str], on_disk: list[str]) -> None:
    path = tmp_path / "test.txt"
    path.write_text("".join(f"{name} {label}\n" for name, (_, _, label) in zip(listed, ROWS, strict=True)))
    root = tmp_path / "images"
    for name in on_disk:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    images = read_list(path)
    fitted = fit_to_disk(images, root)
    assert paths_of(fitted) == on_disk
    assert fitted.labels.tolist() == images.labels.tolist() == [1, 0, 2, 0]
    assert fitted.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_lists_that_fit_no_disk_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    for names in (FOLDERS, FLAT, ["train/x.jpg"] * 4, ["val/" + "x" * 300] * 4):
        path.write_text("".join(f"{name} {label}\n" for name, (_, _, label) in zip(names, ROWS, strict=True)))
        assert paths_of(fit_to_disk(read_list(path), tmp_path)) == names
    (tmp_path / "val" / "n01").mkdir(parents=True)  # one class folder for three classes
    path.write_text("".join(f"{name} {label}\n" for name, (_, _, label) in zip(FLAT, ROWS, strict=True)))
    assert paths_of(fit_to_disk(read_list(path), tmp_path)) == FLAT
