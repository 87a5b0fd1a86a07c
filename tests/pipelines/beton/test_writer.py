"""What the writer writes is what stock FFCV reads; what it cannot finish leaves no trace."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ffcv.reader import Reader
from PIL import Image

from pipelines.beton import writer as beton_writer
from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import JPEG_MODE, RAW_MODE
from pipelines.beton.manifest import read_manifest
from pipelines.beton.reader import open_beton
from pipelines.beton.writer import write_beton
from pipelines.sources.image_list import ImageList, from_rows
from pipelines.user_error import UserError

SETTINGS = {"max_size": None, "quality": 90}


def example(count: int, num_classes: int = 5) -> ImageList:
    labels = [i * i % num_classes for i in range(count)]
    names = [f"class {c}" for c in range(num_classes)]
    return from_rows([f"a b/ü{i}.jpg" for i in range(count)], labels, names, kind="list", name="train.txt")


def noise(images: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (images, height, width, 3), dtype=np.uint8)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def raw(pixels: np.ndarray) -> EncodedImage:
    return EncodedImage(pixels.tobytes(), RAW_MODE, pixels.shape[1], pixels.shape[0], copied=False)


def jpeg(path: Path) -> EncodedImage:
    with Image.open(path) as image:
        return EncodedImage(path.read_bytes(), JPEG_MODE, image.width, image.height, copied=True)


ReadWithFfcv = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_ffcv_reads_raw_images(tmp_path: Path, read_with_ffcv: ReadWithFfcv) -> None:
    images, pixels = example(37), noise(37, 24, 40)
    write_beton(tmp_path / "x.beton", images, map(raw, pixels), settings=SETTINGS, page_size=2 << 20)
    seen, labels = read_with_ffcv(tmp_path / "x.beton", os_cache=False)  # reads whole pages of 2 MiB
    np.testing.assert_array_equal(seen, pixels)
    np.testing.assert_array_equal(labels, images.labels)


def test_ffcv_reads_jpegs(
    tmp_path: Path, make_photographs: Callable[..., list[Path]], read_with_ffcv: ReadWithFfcv
) -> None:
    files = make_photographs(tmp_path / "photos", 37, shortest=96, longest=96)
    images = example(37)
    write_beton(tmp_path / "x.beton", images, map(jpeg, files), settings=SETTINGS, page_size=32 << 10)
    seen, labels = read_with_ffcv(tmp_path / "x.beton")
    np.testing.assert_array_equal(labels, images.labels)
    for file, decoded in zip(files, seen, strict=True):
        with Image.open(file) as photo:
            difference = np.abs(np.asarray(photo).astype(int) - decoded)
        assert difference.mean() < 2.5  # FFCV's own decoder uses the fast DCT


def test_layout(tmp_path: Path, make_photographs: Callable[..., list[Path]]) -> None:
    page_size = 32 << 10
    files = make_photographs(tmp_path / "photos", 40)
    images = example(40)
    manifest = write_beton(
        tmp_path / "x.beton", images, map(jpeg, files), settings=SETTINGS, page_size=page_size
    )
    content = (tmp_path / "x.beton").read_bytes()
    reader = Reader(str(tmp_path / "x.beton"))
    assert reader.field_names == ["image", "label"]
    assert reader.alloc_table["sample_id"].tolist() == list(range(40))
    starts, sizes = reader.alloc_table["ptr"].astype(int), reader.alloc_table["size"].astype(int)
    assert starts.tolist() == reader.metadata["f0"]["data_ptr"].tolist()
    for file, field in zip(files, reader.metadata["f0"], strict=True):
        with Image.open(file) as photo:
            assert photo.size == (field["width"], field["height"])
    assert (starts // page_size == (starts + sizes - 1) // page_size).all()
    assert len(set(starts // page_size)) > 5
    for file, start, size in zip(files, starts, sizes, strict=True):
        assert content[start : start + size] == file.read_bytes()
    region = manifest.source_paths
    assert region.offset % page_size == 0
    assert region.offset >= starts[-1] + sizes[-1]
    assert content[region.offset : region.offset + region.length].decode().split("\n") == [
        images.path(i) for i in range(40)
    ]
    assert region.offset + region.length <= reader.header["alloc_table_ptr"]
    assert len(content) == manifest.tables.beton_length


def test_manifest(tmp_path: Path) -> None:
    images = example(37)
    manifest = write_beton(tmp_path / "x.beton", images, map(raw, noise(37, 3, 5)), settings=SETTINGS)
    assert read_manifest(tmp_path / "x.beton.json") == manifest
    assert (manifest.num_images, manifest.class_counts) == (37, np.bincount(images.labels).tolist())
    assert manifest.class_names == images.class_names
    assert (manifest.source.kind, manifest.source.name) == ("list", "train.txt")
    assert manifest.source.sha256 == images.sha256
    assert manifest.settings == SETTINGS
    assert (manifest.shots.many, manifest.shots.medium, manifest.shots.few) == (0, 0, 5)
    assert str(tmp_path) not in (tmp_path / "x.beton.json").read_text()
    assert sorted(json.loads((tmp_path / "x.beton.json").read_text())) == sorted(vars(manifest))


def test_same_images_same_bytes_whatever_was_there(tmp_path: Path) -> None:
    for name, leftover in [("x", b""), ("y", b"leftover of a killed run" * 10_000)]:
        (tmp_path / f".{name}.beton.partial").write_bytes(leftover)
        write_beton(tmp_path / f"{name}.beton", example(9), map(raw, noise(9, 8, 4)), settings=SETTINGS)
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "y.beton").read_bytes()
    assert names_in(tmp_path) == ["x.beton", "x.beton.json", "y.beton", "y.beton.json"]


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator[Path]:
    """A folder with a finished beton, which the test must leave as it is, and nothing beside it."""
    write_beton(tmp_path / "x.beton", example(4), map(raw, noise(4, 6, 7)), settings=SETTINGS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    yield tmp_path / "x.beton"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_existing_output_is_refused(earlier: Path) -> None:
    with pytest.raises(UserError, match=r"x.beton: exists already; give --overwrite"):
        write_beton(earlier, example(5), map(raw, noise(5, 6, 7)), settings=SETTINGS)


def test_overwrite(tmp_path: Path) -> None:
    for count in (4, 7):
        write_beton(
            tmp_path / "x.beton",
            example(count),
            map(raw, noise(count, 6, 7)),
            settings=SETTINGS,
            overwrite=True,
        )
    assert open_beton(tmp_path / "x.beton").num_images == 7
    assert names_in(tmp_path) == ["x.beton", "x.beton.json"]


@pytest.mark.parametrize("error", [UserError("broken"), KeyboardInterrupt("broken")])
def test_failing_image_leaves_the_earlier_file(earlier: Path, error: BaseException) -> None:
    def failing() -> Iterator[EncodedImage]:
        yield from map(raw, noise(3, 600, 700))
        raise error

    with pytest.raises(type(error), match="broken"):
        write_beton(earlier, example(5), failing(), settings=SETTINGS, overwrite=True)


def test_image_larger_than_a_page(earlier: Path) -> None:
    with pytest.raises(
        UserError, match=r"train.txt:2: a b/ü1.jpg takes 6,144 bytes, .* holds 4,096; give --max-size"
    ):
        images = [raw(noise(1, side, 64)[0]) for side in (21, 32)]
        write_beton(earlier, example(2), images, settings=SETTINGS, page_size=4096, overwrite=True)


def test_full_disk_leaves_the_earlier_file(earlier: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9 << 20, hard))  # the nearest to a full disk without one
    try:
        with pytest.raises(UserError, match=r"x.beton: cannot write: File too large"):
            write_beton(earlier, example(9), map(raw, noise(9, 600, 700)), settings=SETTINGS, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_output_that_cannot_be(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        write_beton(path, example(2), map(raw, noise(2, 3, 4)), settings=SETTINGS)

    with pytest.raises(UserError, match=r"the output is a folder; give the name of a file"):
        write(tmp_path)
    with pytest.raises(UserError, match=r"the folder of the output does not exist; create .*nowhere first"):
        write(tmp_path / "nowhere" / "x.beton")
    with pytest.raises(UserError, match=r"/proc/x.beton: cannot write"):
        write(Path("/proc/x.beton"))
    with pytest.raises(UserError, match=r"cannot write: File name too long"):
        write(tmp_path / ("x" * 250))


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with (tmp_path / ".x.beton.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # even this is in the way
        with pytest.raises(UserError, match=r"x.beton: another process is writing this file"):
            write_beton(tmp_path / "x.beton", example(2), map(raw, noise(2, 3, 4)), settings=SETTINGS)
        assert (tmp_path / ".x.beton.partial").exists()
    write_beton(tmp_path / "x.beton", example(2), map(raw, noise(2, 3, 4)), settings=SETTINGS)


def test_killed_writer_leaves_nothing_that_opens(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from pipelines.beton.writer import write_beton
        from pipelines.beton.encoded_image import EncodedImage
        from pipelines.sources.image_list import from_rows
        def images():
            for i in range(8):
                if i == 6:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield EncodedImage(bytes(3 << 20), 1, 1024, 1024, copied=False)
        rows = from_rows([str(i) for i in range(8)], [0] * 8, ["only"], kind="list", name="x")
        write_beton(Path(sys.argv[1]), rows, images(), settings={})
    """)
    root = Path(beton_writer.__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x.beton"],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert names_in(tmp_path) == [".x.beton.partial"]
    assert (tmp_path / ".x.beton.partial").stat().st_size > 8 << 20
    with pytest.raises(UserError, match="unfinished: whatever wrote it stopped before the end"):
        open_beton(tmp_path / ".x.beton.partial")
    write_beton(tmp_path / "x.beton", example(2), map(raw, noise(2, 3, 4)), settings=SETTINGS)
    assert names_in(tmp_path) == ["x.beton", "x.beton.json"]


def test_crash_between_manifest_and_beton_is_noticed(tmp_path: Path) -> None:
    for name, seed in [("old", 4), ("new", 5)]:
        write_beton(tmp_path / f"{name}.beton", example(seed), map(raw, noise(seed, 6, 7)), settings=SETTINGS)
    (tmp_path / "new.beton.json").rename(tmp_path / "old.beton.json")
    with pytest.raises(UserError, match=r"old.beton: does not fit its manifest old.beton.json"):
        open_beton(tmp_path / "old.beton")
