"""The folder reader against torchvision's ImageFolder, and the long-tailed subsets made from it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from pipelines.sources.image_folder import make_long_tailed, read_folder
from pipelines.sources.image_list import ImageList
from pipelines.user_error import UserError


def make_files(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def make_classes(root: Path, counts: list[int]) -> Path:
    return make_files(root, [f"{c:02d}/{i:03d}.jpg" for c, count in enumerate(counts) for i in range(count)])


def paths_of(images: ImageList) -> list[str]:
    return [images.path(i) for i in range(len(images))]


def test_same_images_as_torchvision(tmp_path: Path) -> None:
    names = ["b/2.JPEG", "b/10.png", "b/deep/er/x y.webp", "b/notes.txt", "a b/é.tif", "c/1.jpg", "c/0.ppm"]
    root = make_files(tmp_path / "train", [*names, "readme.md"])
    images, reference = read_folder(root), ImageFolder(root)
    assert images.class_names == reference.classes == ["a b", "b", "c"]
    rows = {(path, int(label)) for path, label in zip(paths_of(images), images.labels, strict=True)}
    assert rows == {(os.path.relpath(path, root), label) for path, label in reference.samples}
    assert (np.diff(images.labels) >= 0).all()
    assert (images.kind, images.name, len(images)) == ("folder", "train", 6)


def test_hidden_names_are_left_out(tmp_path: Path) -> None:
    make_files(tmp_path, ["a/1.jpg", "a/._1.jpg", ".ipynb_checkpoints/1.jpg", "a/.cache/2.jpg"])
    assert paths_of(read_folder(tmp_path)) == ["a/1.jpg"]


def test_extensions(tmp_path: Path) -> None:
    make_files(tmp_path, ["a/1.jpg", "a/2.avif", "a/3.AVIF"])
    assert paths_of(read_folder(tmp_path, extensions=[".avif"])) == ["a/2.avif", "a/3.AVIF"]


def test_links_are_followed_but_not_round_and_round(tmp_path: Path) -> None:
    root = make_files(tmp_path / "train", ["a/1.jpg"])
    make_files(tmp_path / "elsewhere", ["2.jpg"])
    (root / "b").symlink_to(tmp_path / "elsewhere")
    assert paths_of(read_folder(root)) == ["a/1.jpg", "b/2.jpg"]
    (root / "a" / "again").symlink_to(root / "a")
    with pytest.raises(
        UserError, match="a/again: the folder contains itself through a link; remove the link"
    ):
        read_folder(root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class folders are in it"),
        (["1.jpg"], "no class folders are in it"),
        (["a/1.txt", "b/2.txt"], r"no images \(.jpg, .*\) in 2 class folders"),
        (["a/1.jpg", "b/2.txt"], r"1 of 2 classes have no images: 1 \(b\)"),
        (["a/x\ny.jpg"], "control character; rename the file"),
    ],
)
def test_folders_that_are_no_set(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_folder(make_files(tmp_path, names))


def test_a_missing_folder_and_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: cannot read the folder: No such file"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xff.jpg")).touch()
    with pytest.raises(UserError, match=r"'a/\\udcff.jpg' is not UTF-8; rename the file"):
        read_folder(tmp_path)


def test_empty_classes_may_be_allowed(tmp_path: Path) -> None:
    make_files(tmp_path, ["a/1.txt", "b/2.jpg"])
    images = read_folder(tmp_path, allow_empty_classes=True)
    assert (images.class_counts().tolist(), images.class_names) == ([0, 1], ["a", "b"])


def test_long_tailed_ranks_classes_by_size(tmp_path: Path) -> None:
    images = read_folder(make_classes(tmp_path, [20, 40, 40, 5]))
    tailed = make_long_tailed(images, "exponential", 8, seed=0)
    # Ranks: classes 1, 2, 0, 3 get 40, 20, 10, 5 (40 / 8^(r/3)).
    assert tailed.class_counts().tolist() == [10, 40, 20, 5]
    assert set(paths_of(tailed)) < set(paths_of(images))
    assert paths_of(tailed) == sorted(paths_of(tailed))
    assert tailed.sha256 != images.sha256
    for path, label in zip(paths_of(tailed), tailed.labels, strict=True):
        assert int(path[:2]) == label


def test_a_class_gives_no_more_than_it_has(tmp_path: Path) -> None:
    images = read_folder(make_classes(tmp_path, [40, 4, 4, 4]))
    assert make_long_tailed(images, "exponential", 8, seed=0).class_counts().tolist() == [40, 4, 4, 4]
    assert make_long_tailed(images, "pareto", 40, seed=0).class_counts().tolist() == [40, 4, 2, 1]


@pytest.mark.parametrize("decay", ["exponential", "pareto"])
def test_subsets_are_nested_and_fixed_by_the_seed(tmp_path: Path, decay: str) -> None:
    images = read_folder(make_classes(tmp_path, [30] * 5))
    larger = paths_of(make_long_tailed(images, decay, 3, seed=1))
    assert set(paths_of(make_long_tailed(images, decay, 10, seed=1))) < set(larger)
    assert larger == paths_of(make_long_tailed(images, decay, 3, seed=1))
    assert larger != paths_of(make_long_tailed(images, decay, 3, seed=2))
    assert paths_of(make_long_tailed(images, decay, 1, seed=1)) == paths_of(images)
