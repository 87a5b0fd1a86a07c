"""The converter as a user meets it: real command lines, what they print, and what they leave behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.reader import open_beton

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

Convert = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Run the command in the test's folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = REPOSITORY / "tools" / "convert_datasets.py"
        return subprocess.run(
            [sys.executable, script, *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def photos(tmp_path: Path, make_photographs: Callable[..., list[Path]]) -> list[Path]:
    """Twelve photographs in `images`, the last a PNG, and `train.txt` with three classes."""
    files = make_photographs(tmp_path / "images", 12)
    with Image.open(files[-1]) as photo:
        photo.save(files[-1], "PNG")
    (tmp_path / "train.txt").write_text("".join(f"{file.name} {i % 3}\n" for i, file in enumerate(files)))
    return files


LIST = ("list", "--images", "images", "--list", "train.txt", "--out", "train.beton")


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"images", "train.txt"}


def test_list(tmp_path: Path, photos: list[Path], convert: Convert) -> None:
    (tmp_path / "names.txt").write_text("dog\ncat\ncow\n")
    done = convert(*LIST, "--class-names", "names.txt", "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    size = (tmp_path / "train.beton").stat().st_size
    assert done.stdout.startswith(f"train.beton: 12 images of 3 classes, {size:,} bytes in ")
    assert done.stdout.endswith(" s; 11 copied byte for byte, 1 re-encoded\n")
    assert done.stdout.count("\n") == 1
    beton = open_beton(tmp_path / "train.beton")
    assert beton.class_names == ["dog", "cat", "cow"]
    assert beton.counts.tolist() == [4, 4, 4]
    assert beton.image_bytes(0).tobytes() == photos[0].read_bytes()


def test_list_with_settings(tmp_path: Path, photos: list[Path], convert: Convert) -> None:
    assert convert(*LIST).returncode == 0
    options = ("--max-size", "60", "--quality", "70", "--num-classes", "5", "--allow-empty-classes")
    done = convert(*LIST, *options, "--overwrite")
    assert (done.returncode, done.stderr) == (0, "")
    beton = open_beton(tmp_path / "train.beton")
    assert beton.manifest is not None
    assert beton.manifest.settings == {
        "max_size": 60,
        "short_side": None,
        "quality": 70,
        "check": "codes",
        "on_bad": "stop",
        "order": "listed",
    }
    assert np.maximum(beton.heights, beton.widths).max() == 60
    assert beton.counts.tolist() == [4, 4, 4, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--list", "none.txt"), "none.txt: cannot read the list: No such file or directory"),
        (("--images", "nowhere"), "nowhere: not a folder; give --images"),
        (("--images", "."), "train.txt:1 (and 11 more): 00000.jpg not found; give --images"),
        (("--num-classes", "2"), "train.txt:3: label 2 is out of range for 2 classes"),
        (("--num-classes", "4"), "train.txt: 1 of 4 classes have no images: 3; correct the labels"),
        (("--class-names", "train.txt"), "train.txt: 9 of 12 classes have no images: 3 (00003.jpg 0), "),
        (("--class-names", "none"), "none: cannot read the class names: No such file"),
        (("--out", "nowhere/x.beton"), "nowhere/x.beton: the folder of the output does not exist"),
        (("--out", "images"), "images: the output is a folder"),
        (("--out", "/proc/x.beton"), "/proc/x.beton: cannot write"),
        (("--quality", "101"), "--quality 101 is not a JPEG quality; give 1 to 100"),
    ],
)
def test_mistakes_of_a_list(
    tmp_path: Path, photos: list[Path], convert: Convert, arguments: tuple[str, ...], message: str
) -> None:
    done = convert(*LIST, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"fasttail-convert: {message}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "train.txt").write_text("00000.jpg 0\n00001.jpg\n"),
            "train.txt:2: a row must",
        ),
        (
            lambda folder: (folder / "images" / "00005.jpg").unlink(),
            "train.txt:6: images/00005.jpg not found",
        ),
        (
            lambda folder: (folder / "images" / "00005.jpg").write_bytes(b"no image"),
            "train.txt:6: images/00005.jpg: cannot decode the image",
        ),
        (
            lambda folder: (folder / "train.beton").write_bytes(b"precious"),
            "train.beton: exists already; give",
        ),
    ],
)
def test_bad_files_of_a_list(
    tmp_path: Path,
    photos: list[Path],
    convert: Convert,
    change: Callable[[Path], object],
    message: str,
) -> None:
    change(tmp_path)
    done = convert(*LIST)
    assert done.returncode == 2
    assert done.stderr.startswith(f"fasttail-convert: {message}")
    assert done.stderr.count("\n") == 1
    assert left(tmp_path) <= {"train.beton"}
    if left(tmp_path):
        assert (tmp_path / "train.beton").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: SOURCE"),
        (("list",), "required: --images, --list, --out"),
        ((*LIST, "--workers", "0"), "argument --workers: '0' is no whole number from 1"),
        ((*LIST, "--max-size", "big"), "argument --max-size: 'big' is no whole number from 1"),
        (("digits", "--out", "d", "--seed", "-1"), "argument --seed: '-1' is no whole number from 0"),
    ],
)
def test_command_lines_that_cannot_be(convert: Convert, arguments: tuple[str, ...], message: str) -> None:
    done = convert(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_digits(tmp_path: Path, convert: Convert) -> None:
    out = tmp_path / "data" / "digits_lt"
    first = convert("digits", "--out", str(out))
    assert (first.returncode, first.stderr) == (0, "")
    assert [line.partition(" bytes in ")[0] for line in first.stdout.splitlines()] == [
        f"{out}/{split}.beton: {images} images of 10 classes, {(out / f'{split}.beton').stat().st_size:,}"
        for split, images in [("train", 331), ("test", 500)]
    ]
    train, test = open_beton(out / "train.beton"), open_beton(out / "test.beton")
    assert train.counts.tolist() == [120, 77, 50, 32, 21, 13, 8, 5, 3, 2]
    assert test.counts.tolist() == [50] * 10
    for beton in (train, test):
        images = beton.raw_images()
        assert images is not None
        assert images.shape == (beton.num_images, 32, 32, 3)

    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    again = convert("digits", "--out", str(out))
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.count("finished already, from the same images with the same settings") == 2
    other = convert("digits", "--out", str(out), "--imbalance-factor", "10")
    assert other.returncode == 2
    assert other.stderr.startswith(f"fasttail-convert: {out}/train.beton: exists already; give --overwrite")
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()} == before

    for name in ("train.beton", "train.beton.json"):
        (out / name).unlink()
    mended = convert("digits", "--out", str(out))
    assert mended.returncode == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: content for name, (_, content) in before.items()
    }
    replaced = convert("digits", "--out", str(out), "--imbalance-factor", "10", "--seed", "3", "--overwrite")
    assert (replaced.returncode, replaced.stderr) == (0, "")
    assert open_beton(out / "train.beton").counts[-1] == 12


def test_digits_mistakes(tmp_path: Path, convert: Convert) -> None:
    done = convert("digits", "--out", "d", "--imbalance-factor", "500")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fasttail-convert: --imbalance-factor 500.0 makes no long-tailed set")
    (tmp_path / "file").write_text("")
    done = convert("digits", "--out", "file/d")
    assert done.returncode == 2
    assert done.stderr == "fasttail-convert: file/d: cannot make the folder: Not a directory\n"


@pytest.mark.parametrize("source", ["list", "digits"])
def test_help_has_an_example(convert: Convert, source: str) -> None:
    done = convert(source, "--help")
    assert done.returncode == 0
    assert f"example:\n  python tools/convert_datasets.py {source} " in done.stdout


def test_interrupted_conversion_goes_on(tmp_path: Path, photos: list[Path], convert: Convert) -> None:
    (tmp_path / "train.txt").write_text("00011.jpg 0\n" * 50_000)  # minutes of encoding
    # Not the script itself: a shell may have started this test with SIGINT ignored, which children inherit.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from tools.convert_datasets import main; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *LIST, "--workers", "1"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        deadline = time.monotonic() + 600
        while len(noted(tmp_path)) < 1000:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(signal.SIGSTOP)  # or it may end before the second has begun
        second = convert(*LIST)
        assert second.returncode == 2
        assert second.stderr.startswith(
            "fasttail-convert: train.beton: another process is writing this file; wait for it, or end it"
        )
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGCONT)
        printed, complained = running.communicate(timeout=600)
    assert (running.returncode, printed) == (130, "")
    assert complained.endswith(
        " of 50,000 rows are done; the same command goes on from there\nfasttail-convert: interrupted\n"
    )
    assert left(tmp_path) == {".train.beton.partial", ".train.beton.journal"}
    (tmp_path / "images" / "00011.jpg").unlink()
    other = convert(*LIST, "--quality", "80")
    assert other.stderr.splitlines()[0] == (
        "train.beton: a partial file of an earlier run is discarded, for it was made otherwise "
        "(quality 90, now 80)"
    )
    assert other.stderr.splitlines()[1].startswith("fasttail-convert: train.txt:1 (and 49,999 more): ")
    assert left(tmp_path) == set()


def noted(folder: Path) -> bytes:
    try:
        return (folder / ".train.beton.journal").read_bytes()
    except FileNotFoundError:
        return b""


def test_run_again(tmp_path: Path, photos: list[Path], convert: Convert) -> None:
    first = convert(*LIST, "--json")
    facts = json.loads(first.stdout.splitlines()[-1])
    assert {**facts, "seconds": 0} == {"images": 12, "resumed_from": 0, "skipped": 0, "seconds": 0}
    assert facts["seconds"] > 0
    before = {name: (tmp_path / name).read_bytes() for name in left(tmp_path)}
    again = convert(*LIST, "--json")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith(
        "train.beton: finished already, from the same images with the same settings\n"
    )
    assert json.loads(again.stdout.splitlines()[-1])["resumed_from"] == 12
    other = convert(*LIST, "--on-bad", "skip", "--max-size", "70")
    assert other.returncode == 2
    assert other.stderr == (
        "fasttail-convert: train.beton: exists already, made otherwise (max_size None, now 70, on_bad stop, now "
        "skip); give --overwrite to replace it, or another name\n"
    )
    (tmp_path / "train.txt").write_text("00000.jpg 0\n")
    other = convert(*LIST)
    assert "made otherwise (another list)" in other.stderr
    assert {name: (tmp_path / name).read_bytes() for name in left(tmp_path)} == before


def test_skipped_rows_are_written_down(tmp_path: Path, photos: list[Path], convert: Convert) -> None:
    photos[3].write_bytes(photos[3].read_bytes()[:-30])
    photos[8].unlink()
    photos[10].write_bytes(b"")
    done = convert(*LIST, "--on-bad", "skip", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "; 3 skipped, see train.beton.skipped.csv\n" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["skipped"] == 3
    with (tmp_path / "train.beton.skipped.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[:2] for row in rows] == [
        ["row", "path"],
        ["4", "00003.jpg"],
        ["9", "00008.jpg"],
        ["11", "00010.jpg"],
    ]
    assert rows[1][2].startswith("truncated JPEG: it breaks off before its end marker")
    assert rows[2][2] == "cannot read the image: No such file or directory"
    beton = open_beton(tmp_path / "train.beton")
    kept = [i for i in range(12) if i not in (3, 8, 10)]
    assert [beton.source_path(place) for place in range(9)] == [photos[i].name for i in kept]
    assert beton.labels.tolist() == [i % 3 for i in kept]
    assert beton.image_bytes(8).tobytes()[:3] == b"\xff\xd8\xff"
    (tmp_path / "train.txt").write_text("00008.jpg 0\n00010.jpg 0\n")
    none = convert(*LIST, "--on-bad", "skip", "--overwrite")
    assert none.stderr.splitlines()[-1] == (
        "fasttail-convert: train.txt: every image of the list is bad; nothing is left to write"
    )
    assert open_beton(tmp_path / "train.beton").num_images == 9


def test_shuffled_order(tmp_path: Path, photos: list[Path], convert: Convert) -> None:
    orders = []
    for number in ("0", "1"):
        done = convert(*LIST, "--order", "shuffled", "--order-seed", number, "--overwrite")
        assert done.returncode == 0
        beton = open_beton(tmp_path / "train.beton")
        names = [beton.source_path(i) for i in range(12)]
        assert sorted(names, key=str) == [photo.name for photo in photos]
        for i, name in enumerate(names):
            row = int(str(name)[:5])
            assert beton.labels[i] == row % 3
            assert row == 11 or beton.image_bytes(i).tobytes() == photos[row].read_bytes()
        orders.append(names)
    assert orders[0] != orders[1] != sorted(orders[1], key=str)


def test_verify_and_info(tmp_path: Path, photos: list[Path], convert: Convert) -> None:
    assert convert(*LIST).returncode == 0
    done = convert("verify", "train.beton", "--decode", "all")
    assert (done.returncode, done.stderr) == (0, "")
    size = (tmp_path / "train.beton").stat().st_size
    assert done.stdout.startswith(
        f"train.beton: every one of {size:,} bytes is as it was written; 12 images decoded; "
    )
    told = convert("info", "train.beton")
    assert (told.returncode, told.stderr) == (0, "")
    for wanted in (
        f"train.beton: {size:,} bytes\n",
        "images: 12 (12 JPEG, 0 raw)\n",
        "classes: 3, of 4 to 4 images\n",
        "source: list, train.txt, SHA-256 ",
        "settings: max_size None, short_side None, quality 90, ",
    ):
        assert wanted in told.stdout
    bars = [line for line in told.stdout.splitlines() if "#" in line]
    assert bars == [f"{rank:>13} |{'#' * 48} 4.0" for rank in (1, 2, 3)]

    beton = open_beton(tmp_path / "train.beton")
    place = int(beton.offsets[4]) + 300
    with (tmp_path / "train.beton").open("r+b") as file:
        file.seek(place)
        file.write(bytes([int(beton.content[place]) ^ 8]))
    done = convert("verify", "train.beton")
    assert done.returncode == 2
    assert done.stdout.startswith("train.beton: image 4 (00004.jpg) is damaged, in page 0 ")
    assert done.stderr == (
        "fasttail-convert: train.beton: 1 faults; copy the file and its manifest again, or convert again with "
        "--overwrite\n"
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 9 MiB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine refuses to mount a file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(tmp_path: Path, photos: list[Path], convert: Convert, small_disk: Path) -> None:
    out = small_disk / "train.beton"
    out.write_bytes(b"the earlier file")
    arguments = (*LIST, "--out", str(out), "--overwrite")
    done = convert(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"fasttail-convert: {out}: cannot write: No space left on device; free some space, or write elsewhere; "
        "the same command goes on where this one stopped\n"
    )
    assert out.read_bytes() == b"the earlier file"
    grown = subprocess.run(["mount", "-o", "remount,size=99m", small_disk], check=False)
    assert grown.returncode == 0
    assert convert(*arguments).returncode == 0
    assert open_beton(out).num_images == 12
    assert {path.name for path in small_disk.iterdir()} == {"train.beton", "train.beton.json"}
