from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from pipelines.jpeg.turbojpeg import JpegDecoder, frame_size

Array = NDArray[np.uint8]
KINDS: list[dict[str, object]] = [
    {"subsampling": "4:2:0"},
    {"subsampling": "4:2:2"},
    {"subsampling": "4:4:4", "quality": 96},
    {"subsampling": "4:1:1"},
    {"subsampling": "4:2:0", "optimize": True},
    {"subsampling": "4:2:0", "comment": b"\xff\xc0" * 30},
    {"subsampling": "4:2:0", "restart_marker_blocks": 5},
    {"progressive": True},
]


def _encode(pixels: Array, **settings: object) -> Array:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **settings)
    return np.frombuffer(file.getvalue(), np.uint8)


def _photograph(height: int = 83, width: int = 109) -> Array:
    return np.ascontiguousarray(load_sample_images().images[0][200 : 200 + height, 150 : 150 + width])


def _pillow(data: Array) -> Array:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_the_first_rows_are_pillows_pixels_whatever_their_number(settings: dict[str, object]) -> None:
    data = _encode(_photograph(), **settings)
    data.setflags(write=False)
    expected, decoder = _pillow(data), JpegDecoder()
    assert frame_size(data) == (83, 109)
    for rows in range(1, 84):
        pixels = decoder.decode(data, 83, 109, rows)
        assert rows <= len(pixels) <= 83
        np.testing.assert_array_equal(pixels[:rows], expected[:rows], err_msg=f"{rows} rows")
    np.testing.assert_array_equal(_pillow(data), expected)  # the caller's bytes are as they were


def test_rows_that_are_not_wanted_are_not_decoded() -> None:
    data = _encode(_photograph(), quality=90)
    assert len(JpegDecoder().decode(data, 83, 109, 20)) < 40
    half = data.copy()  # zeros are no sensible code: whoever decodes them gets other pixels
    half[len(data) * 3 // 4 : -2] = 0
    top = JpegDecoder().decode(half, 83, 109, 20)[:20]
    np.testing.assert_array_equal(top, _pillow(data)[:20])


def test_damage_inside_the_data_is_no_error_and_a_missing_end_is() -> None:
    data = _encode(_photograph(), quality=90)
    decoder = JpegDecoder()
    damaged = data.copy()
    damaged[len(data) // 2] ^= 0x55
    assert decoder.decode(damaged, 83, 109, 83).shape == (83, 109, 3)
    for rows in (83, 20):
        with pytest.raises(ValueError, match="Premature end of JPEG file"):
            decoder.decode(data[:-1], 83, 109, rows)
    with pytest.raises(ValueError, match="Quantization table"):
        JpegDecoder().decode(np.delete(data, np.s_[20:158]), 83, 109, 83)
    np.testing.assert_array_equal(decoder.decode(data, 83, 109, 83), _pillow(data))  # it can go on


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\xff\xd8" + tail))
def test_any_bytes_have_a_size_or_none(data: bytes) -> None:
    height, width = frame_size(np.frombuffer(data, np.uint8))
    assert 0 <= height < 65536
    assert 0 <= width < 65536
