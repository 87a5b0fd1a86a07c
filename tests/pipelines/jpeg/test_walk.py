"""The compiled walk of markers against the one in Python: it may only say yes where that one does, and mostly does."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.jpeg.markers import read_markers
from pipelines.jpeg.scans import check_scans
from pipelines.jpeg.walk import universal_size


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def slowly(data: bytes) -> tuple[int, int] | None:
    """The answer of the walk in Python."""
    try:
        info = read_markers(data)
        exact = check_scans(data)
    except ValueError:
        return None
    return (info.frame.height, info.frame.width) if info.universal and exact else None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": "4:2:2", "quality": 95},
        {"subsampling": "4:4:4"},
        {"optimize": True},
        {"restart_marker_blocks": 3},
        {"comment": b"\xff\xd9\xff\xc2 made of markers"},
    ],
)
def test_ordinary_jpegs_are_taken(photo: Image.Image, options: dict[str, Any]) -> None:
    data = saved(photo, **options)
    assert universal_size(data) == slowly(data) == (photo.height, photo.width)
    assert universal_size(data + b"bytes after the end") == (photo.height, photo.width)
    assert universal_size(data, codes=False) == (photo.height, photo.width)


@pytest.mark.parametrize("options", [{"progressive": True}, {"keep_rgb": True}])
def test_other_jpegs_are_left(photo: Image.Image, options: dict[str, Any]) -> None:
    assert universal_size(saved(photo, **options)) is None
    assert universal_size(saved(photo.convert("L"))) is None
    assert universal_size(saved(photo.convert("CMYK"))) is None


def test_never_yes_where_the_other_says_no(photo: Image.Image) -> None:
    rng = np.random.default_rng(5)
    small = photo.resize((40, 24))
    taken = 0
    for options in ({}, {"restart_marker_blocks": 1}, {"progressive": True}):
        original = saved(small, **options)
        for _ in range(1500):
            data = bytearray(original)
            for place in rng.integers(2, len(data) if rng.random() < 0.3 else 650, rng.integers(1, 4)):
                data[place] = rng.choice([int(rng.integers(256)), 0xFF, 0xD9, 0xDA, 0xC0])
            fast = universal_size(bytes(data))
            taken += fast is not None
            assert fast is None or fast == slowly(bytes(data))
    assert taken > 500


@pytest.mark.parametrize("codes", [True, False])
def test_any_truncation_is_left(photo: Image.Image, codes: bool) -> None:
    data = saved(photo)
    for length in [*range(700), *range(700, len(data), 41), len(data) - 2, len(data) - 1]:
        assert universal_size(data[:length], codes=codes) is None


def test_markers_alone_do_not_tell_that_data_end_early(photo: Image.Image) -> None:
    cut = saved(photo)[:-900] + b"\xff\xd9"
    assert universal_size(cut) is None
    assert universal_size(cut, codes=False) == (photo.height, photo.width)
    for other in (saved(photo, progressive=True), saved(photo.convert("L"))):
        assert universal_size(other, codes=False) is None
