"""A whole conversion: what goes in comes out in order, whatever the number of threads, or nothing changes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.reader import open_beton
from pipelines.conversion import tasks as conversion_tasks
from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import ImageSettings
from pipelines.conversion.settings import ConversionSettings
from pipelines.sources.image_list import ImageList, read_list
from pipelines.user_error import UserError

AS_IS = ConversionSettings(image=ImageSettings())


@pytest.fixture
def photos(tmp_path: Path, make_photographs: Callable[..., list[Path]]) -> tuple[ImageList, Path]:
    """A list of 41 rows, one of them twice, one of them a PNG, and the folder of its images."""
    root = tmp_path / "images"
    files = make_photographs(root / "some class", 40)
    with Image.open(files[7]) as photo:
        photo.save(files[7].with_suffix(".png"))
    names = [f"some class/{file.name}" for file in files]
    names[7] = "some class/00007.png"
    rows = [f"{name} {i % 3}" for i, name in enumerate([*names, names[0]])]
    (tmp_path / "train.txt").write_text("\n".join(rows))
    return read_list(tmp_path / "train.txt"), root


def test_images_come_out_as_listed(tmp_path: Path, photos: tuple[ImageList, Path]) -> None:
    images, root = photos
    done = convert_images(images, root, tmp_path / "x.beton", AS_IS, workers=3)
    beton = open_beton(tmp_path / "x.beton")
    assert (done.num_images, done.num_classes, done.copied) == (41, 3, 40)
    assert done.beton_length == (tmp_path / "x.beton").stat().st_size
    assert beton.labels.tolist() == images.labels.tolist()
    for i in range(41):
        assert beton.source_path(i) == images.path(i)
        data = beton.image_bytes(i).tobytes()
        if i != 7:
            assert data == (root / images.path(i)).read_bytes()
        with Image.open(io.BytesIO(data)) as ours, Image.open(root / images.path(i)) as source:
            assert ours.size == (beton.widths[i], beton.heights[i]) == source.size
            assert np.abs(np.asarray(ours).astype(int) - np.asarray(source)).mean() < 5
    assert beton.manifest is not None
    assert beton.manifest.settings == {
        "max_size": None,
        "short_side": None,
        "quality": 90,
        "check": "codes",
        "on_bad": "stop",
        "order": "listed",
    }


def test_same_bytes_whatever_the_number_of_workers(tmp_path: Path, photos: tuple[ImageList, Path]) -> None:
    images, root = photos
    settings = ConversionSettings(image=ImageSettings(max_size=100, quality=80))
    for workers in (1, 4):
        done = convert_images(images, root, tmp_path / f"{workers}.beton", settings, workers=workers)
        assert 0 < done.copied < 40
    assert (tmp_path / "1.beton").read_bytes() == (tmp_path / "4.beton").read_bytes()
    assert (tmp_path / "1.beton.json").read_bytes() == (tmp_path / "4.beton.json").read_bytes()
    assert open_beton(tmp_path / "1.beton").widths.max() <= 100


def test_missing_images_are_found_before_anything_is_written(
    tmp_path: Path, photos: tuple[ImageList, Path]
) -> None:
    images, root = photos
    (root / "some class" / "00030.jpg").unlink()
    with pytest.raises(UserError, match=r"train.txt:31: .*/00030.jpg not found; give --images"):
        convert_images(images, root, tmp_path / "x.beton", AS_IS)
    (root / "some class" / "00011.jpg").unlink()
    (root / "some class" / "00011.jpg").mkdir()
    with pytest.raises(UserError, match=r"train.txt:12 \(and 1 more\): .*/00011.jpg not found"):
        convert_images(images, root, tmp_path / "x.beton", AS_IS)
    with pytest.raises(UserError, match=r"nowhere: not a folder; give --images"):
        convert_images(images, root / "nowhere", tmp_path / "x.beton", AS_IS)
    assert not list(tmp_path.glob("*beton*")) + list(tmp_path.glob(".*beton*"))


@pytest.mark.parametrize("workers", [1, 4])
def test_bad_image_leaves_the_earlier_file(
    tmp_path: Path, photos: tuple[ImageList, Path], workers: int
) -> None:
    images, root = photos
    out = tmp_path / "x.beton"
    convert_images(images, root, out, AS_IS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    bad = root / "some class" / "00021.jpg"
    bad.write_bytes(bad.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"train.txt:22: .*/00021.jpg: truncated JPEG: it breaks off before"):
        convert_images(images, root, out, AS_IS, workers=workers, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_existing_output_is_refused_before_images_are_looked_for(
    tmp_path: Path, photos: tuple[ImageList, Path]
) -> None:
    images, _ = photos
    (tmp_path / "x.beton").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"x.beton: exists already; give --overwrite"):
        convert_images(images, tmp_path / "nowhere", tmp_path / "x.beton", AS_IS)
    assert (tmp_path / "x.beton").read_bytes() == b"precious"


def test_a_source_file_larger_than_the_usual_page_is_copied(
    tmp_path: Path, photos: tuple[ImageList, Path]
) -> None:
    images, root = photos
    large = root / "some class" / "00003.jpg"
    content = large.read_bytes()
    comment = b"\xff\xfe\xff\xff" + bytes(65_533)
    large.write_bytes(content[:2] + comment * 140 + content[2:])  # 9.2 MB
    done = convert_images(images, root, tmp_path / "x.beton", AS_IS)
    assert done.copied == 40
    assert open_beton(tmp_path / "x.beton").image_bytes(3).tobytes() == large.read_bytes()


def test_ffcv_reads_a_shuffled_file_with_rows_left_out(
    tmp_path: Path,
    make_photographs: Callable[..., list[Path]],
    read_with_ffcv: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> None:
    files = make_photographs(tmp_path / "images", 21, shortest=64, longest=64)
    for i in (0, 4, 20):
        files[i].write_bytes(files[i].read_bytes()[:-9])
    (tmp_path / "train.txt").write_text("".join(f"{file.name} {i}\n" for i, file in enumerate(files)))
    images = read_list(tmp_path / "train.txt")
    settings = ConversionSettings(image=ImageSettings(), on_bad="skip", order="shuffled", seed=3)
    done = convert_images(images, tmp_path / "images", tmp_path / "x.beton", settings)
    assert (done.num_images, done.skipped, done.num_classes) == (18, 3, 21)
    seen, labels = read_with_ffcv(tmp_path / "x.beton")
    assert sorted(labels.tolist()) == [i for i in range(21) if i not in (0, 4, 20)] != labels.tolist()
    for pixels, label in zip(seen, labels.tolist(), strict=True):
        with Image.open(files[label]) as photo:
            difference = np.abs(np.asarray(photo).astype(int) - pixels)
        assert difference.mean() < 2.5  # FFCV's own decoder uses the fast DCT


def test_what_a_quick_scan_can_tell_is_told_before_anything_is_written(
    tmp_path: Path, photos: tuple[ImageList, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, root = photos
    folder = root / "some class"
    whole = (folder / "00030.jpg").read_bytes()

    def fail(*_: object) -> None:
        raise AssertionError("an image was read before the scan had seen them all")

    monkeypatch.setattr(conversion_tasks, "encode_image", fail)
    for content, message in [
        (b"", "the file is empty"),
        (whole[:-40], "truncated JPEG: it breaks off before its end marker"),
        (whole[:200], "truncated JPEG: it breaks off inside a segment"),
        (
            b"no image",
            r"cannot decode the image \(UnidentifiedImageError: cannot identify image file the file\)",
        ),
        (b"\x89PNG\r\n\x1a\nbroken", "cannot decode the image"),
    ]:
        (folder / "00030.jpg").write_bytes(content)
        with pytest.raises(UserError, match=rf"train.txt:31: .*/00030.jpg: {message}"):
            convert_images(images, root, tmp_path / "x.beton", AS_IS)
        assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*beton*"))
    (folder / "00030.jpg").write_bytes(whole + b"bytes after the end marker")
    with pytest.raises(AssertionError, match="before the scan"):
        convert_images(images, root, tmp_path / "x.beton", AS_IS)
