"""Data that end early, in every kind of JPEG, and what becomes of such a file in the converter."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.conversion.image_bytes import ImageSettings, encode_image
from pipelines.jpeg.markers import read_markers
from pipelines.jpeg.scans import check_scans
from pipelines.user_error import UserError


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def upright_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 1
    return exif


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "ordinary": lambda p: saved(p),
    "with EXIF": lambda p: saved(p, exif=upright_exif()),
    "grayscale": lambda p: saved(p.convert("L")),
    "grayscale with restarts": lambda p: saved(p.convert("L"), restart_marker_blocks=2),
    "CMYK": lambda p: saved(p.convert("CMYK")),
    "RGB": lambda p: saved(p, keep_rgb=True),
    "progressive": lambda p: saved(p, progressive=True),
}
SEQUENTIAL = [kind for kind in KINDS if kind != "progressive"]


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_data_that_end_early_are_bad(tmp_path: Path, photo: Image.Image, kind: str) -> None:
    data, path = KINDS[kind](photo), tmp_path / "x.jpg"
    path.write_bytes(data)
    assert check_scans(data)
    encode_image(path, ImageSettings())
    start = data.rindex(b"\xff\xda") + 20
    for end in np.linspace(start, len(data) - 3, 17).astype(int):
        cut = data[: end - (data[end - 1] == 0xFF)] + b"\xff\xd9"
        read_markers(cut)  # finds nothing
        path.write_bytes(cut)
        with pytest.raises(
            UserError, match=r"x.jpg: truncated JPEG: its data end before .* replace the file"
        ):
            encode_image(path, ImageSettings())


def test_pillow_does_not_notice(photo: Image.Image) -> None:
    """Why the walk is there: libjpeg fills up what is missing, and only warns."""
    data = saved(photo)
    with Image.open(io.BytesIO(data[: len(data) // 2] + b"\xff\xd9")) as image:
        image.load()


def test_damaged_data_are_bad(tmp_path: Path, photo: Image.Image) -> None:
    data = saved(photo)
    rng, noticed = np.random.default_rng(4), 0
    for _ in range(60):
        damaged = bytearray(data)
        place = rng.integers(data.index(b"\xff\xda") + 14, len(data) - 40)
        damaged[place : place + 16] = rng.integers(0, 255, 16).astype(np.uint8).tobytes()
        (tmp_path / "x.jpg").write_bytes(damaged)
        try:
            noticed += not encode_image(tmp_path / "x.jpg", ImageSettings()).copied
        except UserError as error:
            noticed += "JPEG" in str(error)
    assert noticed > 30  # codes find their way back, so not all can be


def test_data_beyond_the_last_block_are_encoded_again(tmp_path: Path, photo: Image.Image) -> None:
    data = saved(photo)
    (tmp_path / "x.jpg").write_bytes(data[:-2] + b"\x12\x34\x56\xff\xd9")
    encoded = encode_image(tmp_path / "x.jpg", ImageSettings(quality=95))
    assert not encoded.copied
    assert check_scans(encoded.data)
    with Image.open(io.BytesIO(encoded.data)) as seen, Image.open(io.BytesIO(data)) as wanted:
        assert np.abs(np.asarray(seen).astype(int) - np.asarray(wanted).astype(int)).mean() < 3


def test_a_scan_for_each_component(photo: Image.Image) -> None:
    """A 4:2:0 frame whose sides are no multiples of a block, made of three grayscale files."""
    luma, *chroma = (plane.convert("L") for plane in photo.crop((0, 0, 83, 59)).convert("YCbCr").split())
    planes = [luma, *(plane.resize((42, 30)) for plane in chroma)]
    files = [saved(plane) for plane in planes]
    frame = struct.pack(">BHHB", 8, 59, 83, 3) + b"\1\x22\0\2\x11\0\3\x11\0"
    data = files[0][: files[0].index(b"\xff\xc0")] + b"\xff\xc0\0\x11" + frame
    tables = files[0][files[0].index(b"\xff\xc4") : files[0].index(b"\xff\xda")]
    scans = [
        b"\xff\xda\0\x08\1" + bytes([name]) + b"\0\0\x3f\0" + file[file.index(b"\xff\xda") + 10 : -2]
        for name, file in enumerate(files, 1)
    ]
    whole = data + tables + b"".join(scans) + b"\xff\xd9"
    with Image.open(io.BytesIO(whole)) as image:
        assert np.abs(np.asarray(image.convert("L")).astype(int) - np.asarray(luma)).mean() < 5
    assert check_scans(whole)
    with pytest.raises(ValueError, match="truncated JPEG"):
        check_scans(data + tables + scans[0] + scans[2] + b"\xff\xd9")
    with pytest.raises(ValueError, match="truncated JPEG"):
        check_scans(data + tables + scans[0] + scans[1][:-9] + scans[2] + b"\xff\xd9")


def test_left_to_a_decoder(photo: Image.Image) -> None:
    data = saved(photo)
    first, scan = data.index(b"\xff\xc4"), data.index(b"\xff\xda")
    assert not check_scans(data[:first] + data[scan:])  # a frame of a film: the usual tables are left out
    for place, value in ((4, 12), (5, 0), (10, 0x51), (9, 0)):  # bits, no height, a factor, no components
        other = bytearray(data)
        frame = data.index(b"\xff\xc0")
        other[frame + place if place != 5 else frame + 5] = value
        if place == 5:
            other[frame + 6] = 0
        if place == 9:
            other[frame + 3 : frame + 4] = b"\x08"
            del other[frame + 10 : frame + 19]
        assert not check_scans(bytes(other))


def test_a_progressive_file_that_lost_scans_is_bad(tmp_path: Path, photo: Image.Image) -> None:
    for image in (photo, photo.convert("L")):
        data = saved(image, progressive=True, quality=85)
        assert not check_scans(data)  # fine, but a decoder's affair
        scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
        assert len(scans) > 4
        for end in (*scans[1:], (scans[1] + scans[2]) // 2, scans[-1] - 9):
            (tmp_path / "x.jpg").write_bytes(data[:end].rstrip(b"\xff") + b"\xff\xd9")
            with pytest.raises(
                UserError, match=r"truncated JPEG: (its data end before its last scan|it breaks off)"
            ):
                encode_image(tmp_path / "x.jpg", ImageSettings())
        (tmp_path / "x.jpg").write_bytes(data)
        assert not encode_image(tmp_path / "x.jpg", ImageSettings()).copied


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**32 - 1))
def test_hostile_files_end(kind: str, seed: int) -> None:
    """Flipped, cut and mixed files: yes, no or a sentence."""
    rng = np.random.default_rng(seed)
    data = bytearray(KINDS[kind](Image.fromarray(rng.integers(0, 256, (24, 40, 3), np.uint8))))
    for place in rng.integers(2, len(data), rng.integers(0, 5)):
        data[place] = rng.choice([int(rng.integers(256)), 0xFF, 0xD9, 0xDA, 0xC4, 0xC0])
    if rng.random() < 0.4:
        data = data[: rng.integers(3, len(data))] + b"\xff\xd9"
    try:
        read_markers(bytes(data))
        assert check_scans(bytes(data)) in (True, False)
    except ValueError as error:
        assert "JPEG" in str(error)
