"""The converter's subcommands for data sets, as a user calls them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.reader import BetonFile, open_beton
from pipelines.sources.cifar_files import CIFAR10
from tools.convert_datasets import main

SOURCES = [
    "imagenet-lt",
    "inaturalist18",
    "places-lt",
    "inaturalist-json",
    "cifar10-lt",
    "cifar100-lt",
    "folder",
    "list",
    "digits",
]

Convert = Callable[..., tuple[int, str, str]]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Convert:
    """Run a command line in the test's folder; returns status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fasttail-convert", *arguments])
        status = main()
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def make_image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (value, value, value)).save(path)


def paths_of(beton: BetonFile) -> list[str | None]:
    return [beton.source_path(i) for i in range(beton.num_images)]


@pytest.mark.parametrize("source", SOURCES)
def test_help_has_an_example_that_parses(
    source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fasttail-convert", source, "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().out
    assert stop.value.code == 0
    example = re.search(r"example:\n  python tools/convert_datasets.py (.*)", said)
    assert example is not None and example[1].split()[0] == source
    for option in re.findall(r"--[a-z-]+", example[1]):
        assert f"  {option} " in said


def test_a_list_that_differs_is_converted_with_a_warning(tmp_path: Path, convert: Convert) -> None:
    for folder, name, value in (("n1", "a.JPEG", 10), ("n2", "b.JPEG", 20), ("n3", "c.JPEG", 30)):
        make_image(tmp_path / "images" / "val" / folder / name, value)
    (tmp_path / "test.txt").write_text("val/b.JPEG 1\nval/a.JPEG 0\nval/c.JPEG 2\n")
    command = ("imagenet-lt", "--images", "images", "--list", "test.txt", "--out", "test.beton")
    status, out, err = convert(*command)
    assert (status, out.count("\n")) == (0, 1)
    assert err.startswith(
        "fasttail-convert: warning: test.txt: this is not the list the papers use (ImageNet_LT_val.txt), "
        "it differs in number of images (3, not 20,000); number of classes (3, not 1,000); "
    )
    beton = open_beton(tmp_path / "test.beton")
    assert paths_of(beton) == ["val/n2/b.JPEG", "val/n1/a.JPEG", "val/n3/c.JPEG"]
    assert beton.labels.tolist() == [1, 0, 2]
    assert beton.manifest is not None and beton.manifest.source.kind == "imagenet-lt"


def test_a_published_list_is_named(shared_data: Path, convert: Convert) -> None:
    listed = str(shared_data / "Places_LT_train.txt")
    status, out, err = convert("places-lt", "--images", ".", "--list", listed, "--out", "train.beton")
    assert "Places_LT_train.txt, the list the papers use" in out
    assert "warning" not in err
    assert status == 2  # the images are not here
    assert "train/airfield/00004851.jpg" in err


def test_annotations(tmp_path: Path, convert: Convert) -> None:
    for name, value in (("a", 10), ("b", 20)):
        make_image(tmp_path / "images" / "train_val2018" / f"{name}.jpg", value)
    content = {
        "images": [
            {"id": 1, "file_name": "train_val2018/b.jpg"},
            {"id": 2, "file_name": "train_val2018/a.jpg"},
        ],
        "annotations": [{"image_id": 2, "category_id": 0}, {"image_id": 1, "category_id": 1}],
        "categories": [{"id": 0, "name": "Ardea"}, {"id": 1, "name": "Grus"}],
    }
    (tmp_path / "train2018.json").write_text(json.dumps(content))
    command = (
        "inaturalist-json",
        "--images",
        "images",
        "--annotations",
        "train2018.json",
        "--out",
        "x.beton",
    )
    assert convert(*command)[0] == 0
    beton = open_beton(tmp_path / "x.beton")
    assert (beton.labels.tolist(), beton.class_names) == ([1, 0], ["Ardea", "Grus"])
    assert paths_of(beton) == ["train_val2018/b.jpg", "train_val2018/a.jpg"]


def test_folder_whole_and_long_tailed(tmp_path: Path, convert: Convert) -> None:
    for c in range(3):
        for i in range(8):
            make_image(tmp_path / "images" / f"class {c}" / f"{i}.png", 10 * i)
    assert convert("folder", "--images", "images", "--out", "all.beton")[0] == 0
    whole = open_beton(tmp_path / "all.beton")
    assert (whole.counts.tolist(), whole.class_names) == ([8, 8, 8], ["class 0", "class 1", "class 2"])
    tail = ("--long-tail", "pareto", "--imbalance-factor", "4", "--seed", "1")
    status, out, _ = convert("folder", "--images", "images", *tail, "--out", "tail.beton")
    assert status == 0
    assert "images: 13 of 24 images kept, 8 in the largest class, 2 in the smallest" in out
    beton = open_beton(tmp_path / "tail.beton")
    assert beton.counts.tolist() == [8, 3, 2]
    assert beton.manifest is not None
    assert beton.manifest.settings["long_tail"] == "pareto"
    assert set(paths_of(beton)) < set(paths_of(whole))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", "1"), "are of --long-tail; give that too"),
        (("--imbalance-factor", "9"), "are of --long-tail; give that too"),
        (("--extensions", "jpg"), "--extensions jpg: each starts with a dot"),
        (("--long-tail", "pareto", "--imbalance-factor", "0"), "makes no long-tailed set"),
    ],
)
def test_folder_options_that_do_not_fit(
    tmp_path: Path, convert: Convert, options: tuple[str, ...], message: str
) -> None:
    make_image(tmp_path / "images" / "a" / "1.jpg", 1)
    status, _, err = convert("folder", "--images", "images", "--out", "x.beton", *options)
    assert status == 2 and message in err
    assert not (tmp_path / "x.beton").exists()


def test_cifar10_lt(tmp_path: Path, convert: Convert) -> None:
    home = tmp_path / "cifar" / CIFAR10.binary_folder
    home.mkdir(parents=True)
    (home / "batches.meta.txt").write_text("\n".join(f"class_{c}" for c in range(10)))
    records = np.zeros((10_000, 3073), np.uint8)
    records[:, 0] = np.arange(10_000) % 10
    records[:, 1:] = np.random.default_rng(0).integers(0, 256, (10_000, 1))
    for name in (*CIFAR10.train_files, *CIFAR10.test_files):
        (home / f"{name}.bin").write_bytes(records.tobytes())
    command = ("cifar10-lt", "--data", "cifar", "--out", "made", "--subset", "ldam")
    status, out, err = convert(*command)
    assert (status, err) == (0, "") and "12,406 images of 10 classes" in out
    train, test = (open_beton(tmp_path / "made" / f"{split}.beton") for split in ("train", "test"))
    assert train.counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert test.counts.tolist() == [1000] * 10
    assert train.raw_images() is not None
    assert train.manifest is not None and train.manifest.settings["subset"] == "ldam"
    assert [line.split(": ")[1] for line in convert(*command)[1].splitlines()] == [
        "finished already, from the same images with the same settings"
    ] * 2
    assert last_line(convert(*command, "--json")[1]) == (22_406, 22_406, 0)
    (tmp_path / "made" / "test.beton").unlink()
    assert last_line(convert(*command, "--json")[1]) == (22_406, 12_406, 0)
    status, _, err = convert(*command, "--imbalance-factor", "50")
    assert status == 2 and "exists already" in err
    shutil.rmtree(tmp_path / "cifar")
    assert "neither cifar-10-batches-bin nor cifar-10-batches-py is here" in convert(*command)[2]


def last_line(said: str) -> tuple[int, int, int]:
    """What `--json` prints last, but for the seconds."""
    facts = json.loads(said.splitlines()[-1])
    assert set(facts) == {"images", "resumed_from", "skipped", "seconds"}
    assert 0 <= facts["seconds"] < 60
    return facts["images"], facts["resumed_from"], facts["skipped"]


def test_cifar_files_that_are_not_the_published_ones(tmp_path: Path, convert: Convert) -> None:
    home = tmp_path / "cifar" / CIFAR10.python_folder
    home.mkdir(parents=True)
    (home / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, 2))
    pixels = np.zeros((10_000, 3072), np.uint8)
    batch = pickle.dumps({"data": pixels, "labels": (np.arange(10_000) % 10).tolist()}, 2)
    (home / "test_batch").write_bytes(batch)
    for name in CIFAR10.train_files:
        (home / name).hardlink_to(home / "test_batch")
    command = ("cifar10-lt", "--data", "cifar", "--out", "made", "--json")
    status, out, err = convert(*command)
    assert status == 0
    assert last_line(out) == (22_406, 0, 0)
    lines = err.splitlines()
    assert [line.split(": ")[2].rpartition("/")[2] for line in lines] == [*CIFAR10.python_md5]
    assert all("this is not the file that the papers use, its MD5 differs" in line for line in lines)


def test_json_of_digits(convert: Convert) -> None:
    status, out, _ = convert("digits", "--out", "made", "--json")
    images, resumed_from, skipped = last_line(out)
    assert (status, resumed_from, skipped) == (0, 0, 0)
    counts = re.findall(r"beton: ([0-9,]+) images", out)
    assert images == sum(int(count.replace(",", "")) for count in counts) > 500
    assert last_line(convert("digits", "--out", "made", "--json")[1]) == (images, images, 0)
