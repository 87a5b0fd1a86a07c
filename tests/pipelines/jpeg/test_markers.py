"""The marker walk against Pillow, on real files of every kind."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from pipelines.jpeg.markers import exif_orientation, is_jpeg, read_markers


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_exif(image: Image.Image, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    return saved(image, exif=exif, **options)


KINDS: dict[str, tuple[Callable[[Image.Image], bytes], bool]] = {
    "4:2:0": (lambda p: saved(p), True),
    "4:2:2": (lambda p: saved(p, subsampling="4:2:2", quality=95), True),
    "4:4:4": (lambda p: saved(p, subsampling="4:4:4"), True),
    "optimised": (lambda p: saved(p, optimize=True), True),
    "restart markers": (lambda p: saved(p, restart_marker_blocks=3), True),
    "comment": (lambda p: saved(p, comment=b"\xff\xd9\xff\xc2 made of markers"), True),
    "upright EXIF": (lambda p: with_exif(p, 1), True),
    "bytes after the end": (lambda p: saved(p) + b"\xff\xd8 and more", True),
    "progressive": (lambda p: saved(p, progressive=True), False),
    "grayscale": (lambda p: saved(p.convert("L")), False),
    "CMYK": (lambda p: saved(p.convert("CMYK")), False),
    "RGB": (lambda p: saved(p, keep_rgb=True), False),
    "turned by EXIF": (lambda p: with_exif(p, 6), False),
    "odd size": (lambda p: saved(p.crop((0, 0, 1, 7))), True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_against_pillow(photo: Image.Image, kind: str) -> None:
    make, universal = KINDS[kind]
    data = make(photo)
    info = read_markers(data)
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, JpegImageFile)
        assert (info.frame.width, info.frame.height) == image.size
        assert len(info.frame.components) == image.layers
        assert (info.frame.code == 0xC2) == bool(image.info.get("progressive"))
        assert info.jfif == ("jfif" in image.info)
        assert info.adobe_transform == image.info.get("adobe_transform")
        assert info.orientation == image.getexif().get(0x0112, 1)
        assert info.frame.precision == image.bits
        luma = info.frame.components[0][1:]
        if image.layers == 3:
            assert luma == {0: (1, 1), 1: (2, 1), 2: (2, 2)}[get_sampling(image)]
    assert info.universal == universal
    assert is_jpeg(data)


def test_thumbnail_is_not_taken_for_the_image(photo: Image.Image) -> None:
    thumbnail = saved(photo.resize((16, 8)), progressive=True)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(thumbnail)) + b"Exif\0\0" + thumbnail
    data = saved(photo)
    info = read_markers(data[:2] + segment + data[2:])
    assert (info.frame.width, info.frame.height) == photo.size
    assert info.universal
    with pytest.raises(ValueError, match="truncated JPEG"):  # although the thumbnail has an end marker
        read_markers((data[:2] + segment + data[2:])[:-2])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_of_either_byte_order(orientation: int, order: str) -> None:
    entries = [
        (0x0100, 4, 1, struct.pack(order + "I", 77)),
        (0x0112, 3, 1, struct.pack(order + "HH", orientation, 0)),
    ]
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        block += struct.pack(order + "HHI", tag, kind, count) + value
    assert exif_orientation(block) == orientation
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + block + bytes(4))
    assert exif[0x0112] == orientation
    for length in range(len(block) - 2):
        assert exif_orientation(block[:length]) == 1


def test_nonsense_orientation(photo: Image.Image) -> None:
    assert read_markers(with_exif(photo, 9)).orientation == 1
    assert read_markers(with_exif(photo, 0)).orientation == 1


def test_only_the_first_exif_counts(photo: Image.Image) -> None:
    first, second = with_exif(photo, 8), with_exif(photo, 3)
    start = first.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(first[start + 2 : start + 4], "big")
    assert read_markers(first[:end] + second[start:end] + first[end:]).orientation == 8


def test_any_truncation_is_noticed(photo: Image.Image) -> None:
    for data in (saved(photo, restart_marker_blocks=2), saved(photo, progressive=True)):
        for length in [*range(700), *range(700, len(data), 41), len(data) - 2, len(data) - 1]:
            with pytest.raises(ValueError, match=r"truncated JPEG|no JPEG"):
                read_markers(data[:length])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"\x89PNG" + data, "no JPEG"),
        (lambda data: data[:2] + b"\xff\xd9", "damaged JPEG: it ends without an image"),
        (lambda data: data[:20] + b"x" + data[20:], "damaged JPEG: no marker at byte 20"),
        (
            lambda data: data[:20] + b"\xff\xe1\0\1" + data[20:],
            "truncated JPEG: it breaks off inside a segment",
        ),
        (lambda data: data.replace(b"\xff\xc0\0\x11", b"\xff\xc0\0\x0c"), "frame segment has a wrong length"),
        (
            lambda data: data.replace(b"\xff\xc0", b"\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xc0"),
            "two frames",
        ),
    ],
)
def test_damage(photo: Image.Image, change: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_markers(change(saved(photo)))


def test_fill_bytes_between_markers(photo: Image.Image) -> None:
    data = saved(photo)
    assert read_markers(data[:20] + b"\xff\xff\xff" + data[20:]) == read_markers(data)


def test_what_is_not_surely_ycbcr(photo: Image.Image) -> None:
    data = saved(photo)
    bare = data[:2] + data[20:]  # no JFIF segment
    assert read_markers(bare).universal  # component identifiers 1, 2, 3
    frame = bare.index(b"\xff\xc0") + 4
    other_names = bytearray(bare)
    for place, name in zip((6, 9, 12), (0, 1, 2), strict=True):
        other_names[frame + place] = name
    assert not read_markers(bytes(other_names)).universal
    chroma = bytearray(data)
    chroma[data.index(b"\xff\xc0") + 4 + 10] = 0x21
    assert not read_markers(bytes(chroma)).universal


def test_rgb_in_disguise(photo: Image.Image) -> None:
    data = saved(photo)
    for transform in (0, 1, 2):
        adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
        info = read_markers(data[:20] + adobe + data[20:])
        assert (info.jfif, info.adobe_transform, info.universal) == (True, transform, transform == 1)


def test_one_scan_a_component(photo: Image.Image) -> None:
    data = saved(photo)
    start = data.index(b"\xff\xda")
    scans = b"".join(
        b"\xff\xda\0\x08\1" + bytes([name]) + b"\0\0\x3f\0 data \xff\0 data" for name in (1, 2, 3)
    )
    info = read_markers(data[:start] + scans + b"\xff\xd9")
    assert (info.scans, info.universal) == ((1, 1, 1), False)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_garbage_never_crashes(noise: bytes, seed: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), "orange").save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    rng = np.random.default_rng(seed)
    for place in rng.integers(2, len(data), rng.integers(1, 6)):
        data[place] = rng.integers(256)
    for content in (
        noise,
        b"\xff\xd8\xff" + noise,
        bytes(data),
        bytes(data[: rng.integers(len(data))]) + noise,
    ):
        try:
            info = read_markers(content)
        except ValueError as error:
            assert "JPEG" in str(error)
        else:
            assert 1 <= info.orientation <= 8
            assert isinstance(info.universal, bool)
    exif_orientation(b"II*\0" + noise)
