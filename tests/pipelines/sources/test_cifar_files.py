"""CIFAR's files in both versions, made here with random pixels and read by torchvision as well."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from pipelines.sources.cifar_files import CIFAR10, CIFAR100, CifarFormat, read_cifar, unpublished_files
from pipelines.user_error import UserError

SMALL = {
    "cifar10": dataclasses.replace(CIFAR10, rows={"train": 300, "test": 70}),
    "cifar100": dataclasses.replace(CIFAR100, rows={"train": 400, "test": 200}),
}


def make(folder: Path, cifar: CifarFormat, *, binary: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the files of a set; return its (n, 3, 32, 32) planes and labels."""
    rng = np.random.default_rng(5)
    home = folder / (cifar.binary_folder if binary else cifar.python_folder)
    home.mkdir()
    names = [f"class_{c}" for c in range(cifar.num_classes)]
    if binary:
        (home / cifar.binary_names).write_text("\n".join(names) + "\n\n")
    else:
        file, key = cifar.python_names
        (home / file).write_bytes(pickle.dumps({key: names}, 2))
    made = {}
    for split, files in (("train", cifar.train_files), ("test", cifar.test_files)):
        count = cifar.rows[split]
        labels = rng.permutation(np.arange(count) % cifar.num_classes)
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        made[split] = (pixels.reshape(-1, 3, 32, 32), labels)
        for name, part in zip(files, np.array_split(np.arange(count), len(files)), strict=True):
            if binary:
                coarse = np.full((len(part), cifar.label_bytes - 1), 77, np.uint8)
                records = np.hstack([coarse, labels[part, None].astype(np.uint8), pixels[part]])
                (home / f"{name}.bin").write_bytes(records.tobytes())
            else:
                content = {"data": pixels[part], cifar.label_key: labels[part].tolist(), "filenames": ["x"]}
                (home / name).write_bytes(pickle.dumps(content, 2))
    return made


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_reads_both_versions(tmp_path: Path, name: str, binary: bool) -> None:
    cifar = SMALL[name]
    made = make(tmp_path, cifar, binary=binary)
    for split, (planes, labels) in made.items():
        read = read_cifar(tmp_path, cifar, split)
        np.testing.assert_array_equal(read.pixels.reshape(-1, 3, 32, 32), planes)
        np.testing.assert_array_equal(read.labels, labels)
        assert read.class_names == [f"class_{c}" for c in range(cifar.num_classes)]
    inside = tmp_path / (cifar.binary_folder if binary else cifar.python_folder)
    np.testing.assert_array_equal(read_cifar(inside, cifar, "test").labels, made["test"][1])


@pytest.mark.parametrize(
    ("name", "reference"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)]
)
def test_same_images_as_torchvision(
    tmp_path: Path, name: str, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar = SMALL[name]
    make(tmp_path, cifar, binary=False)
    home = tmp_path / cifar.python_folder

    def digest(file: str) -> str:
        return hashlib.md5((home / file).read_bytes()).hexdigest()

    for split, files in (("train_list", cifar.train_files), ("test_list", cifar.test_files)):
        monkeypatch.setattr(reference, split, [[file, digest(file)] for file in files])
    monkeypatch.setattr(reference, "meta", {**reference.meta, "md5": digest(cifar.python_names[0])})
    for split in ("train", "test"):
        theirs, ours = reference(tmp_path, train=split == "train"), read_cifar(tmp_path, cifar, split)
        np.testing.assert_array_equal(ours.pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), theirs.data)
        assert (ours.labels.tolist(), ours.class_names) == (theirs.targets, theirs.classes)


def test_files_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    cifar = SMALL["cifar100"]
    with pytest.raises(UserError, match="neither cifar-100-binary nor cifar-100-python is here"):
        read_cifar(tmp_path, cifar, "train")
    with pytest.raises(
        UserError, match=r"x+/cifar-100-binary: cannot look into the folder: File name too long"
    ):
        read_cifar(tmp_path / ("x" * 300), cifar, "train")
    make(tmp_path, cifar, binary=True)
    train = tmp_path / "cifar-100-binary" / "train.bin"
    data = train.read_bytes()
    for damaged, message in (
        (data[:-1], r"train.bin: 1,229,599 bytes are no whole number of records of 3074"),
        (data[:-3074], r"399 train images, but cifar100 has 400; download"),
        (b"\0\xc8" + data[2:], r"a label is outside 0 to 99"),
        (data[3074:] + data[3074 : 2 * 3074], r"the train classes are not of one size"),
    ):
        train.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            read_cifar(tmp_path, cifar, "train")
    (train.parent / "fine_label_names.txt").write_text("one two")
    with pytest.raises(UserError, match=r"fine_label_names.txt: does not name the 100 classes"):
        read_cifar(tmp_path, cifar, "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [1]}, "`data` or `labels` is missing"),
        ({"data": [1, 2], "labels": [1]}, "`data` or `labels` is missing"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "a label is outside 0 to 9"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["x"]}, "a label is outside 0 to 9"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, "3,071 bytes of pixels for 1 labels"),
    ],
)
def test_pickles_that_are_no_batch(tmp_path: Path, content: Any, message: str) -> None:
    cifar = SMALL["cifar10"]
    make(tmp_path, cifar, binary=False)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(UserError, match=rf"data_batch_3: .*{message}"):
        read_cifar(tmp_path, cifar, "train")


@pytest.mark.parametrize(("cifar", "reference"), [(CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)])
def test_published_digests_are_torchvisions(cifar: CifarFormat, reference: Any) -> None:
    published = dict([*reference.train_list, *reference.test_list])
    assert cifar.python_md5 == {**published, reference.meta["filename"]: reference.meta["md5"]}
    assert cifar.python_folder == reference.base_folder


def test_files_that_are_not_the_published_ones(tmp_path: Path) -> None:
    cifar = SMALL["cifar100"]
    make(tmp_path, cifar, binary=False)
    home = tmp_path / cifar.python_folder
    digests = {
        name: hashlib.md5((home / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")
    }
    same = dataclasses.replace(cifar, python_md5=digests)
    assert unpublished_files(tmp_path, same) == []
    (home / "test").write_bytes((home / "test").read_bytes() + b"\0")
    assert unpublished_files(home, same) == [home / "test"]
    make(tmp_path, cifar, binary=True)
    assert unpublished_files(tmp_path, cifar) == []
