from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.decode_cpu import DecodeError, decode_into
from pipelines.decode_reference import decode
from pipelines.thread_pool import ThreadPool

Array = NDArray[np.uint8]


@pytest.fixture(scope="module")
def samples(
    make_photographs: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Array]:
    paths = make_photographs(tmp_path_factory.mktemp("photographs"), 11, longest=230)
    return [np.fromfile(path, np.uint8) for path in paths]


def decode_fast(
    samples: list[Array],
    boxes: NDArray[np.float64],
    flips: NDArray[np.bool_],
    size: int,
    *,
    crop_first: bool = True,
) -> Array:
    """`decode_into` with the signature of the reference."""
    out = np.empty((flips.shape[1], len(samples), size, size, 3), np.uint8)
    decode_into(samples, boxes, flips, out, crop_first=crop_first)
    return out


def _encode(image: Image.Image, **settings: object) -> Array:
    file = io.BytesIO()
    image.save(file, "JPEG", **settings)
    return np.frombuffer(file.getvalue(), np.uint8)


def _pixels(sample: Array) -> Array:
    return np.asarray(Image.open(io.BytesIO(sample.tobytes())).convert("RGB"))


def _whole(sample: Array) -> NDArray[np.float64]:
    height, width, _ = _pixels(sample).shape
    return np.array([[(0, 0, height, width)]], np.float64)


def _random_boxes(samples: list[Array], views: int, seed: int) -> NDArray[np.float64]:
    """Boxes of every size, from one pixel to the whole image, of whole pixels."""
    rng = np.random.default_rng(seed)
    boxes = np.empty((len(samples), views, 4))
    for i, sample in enumerate(samples):
        height, width, _ = _pixels(sample).shape
        for v in range(views):
            h, w = (round(side ** rng.uniform(0, 1)) for side in (height, width))
            y0, x0 = rng.integers(height - h + 1), rng.integers(width - w + 1)
            boxes[i, v] = y0, x0, y0 + h, x0 + w
    boxes[0, 0] = (0, 0, *_pixels(samples[0]).shape[:2])
    boxes[1, 0] = (5, 6, 6, 7)
    return boxes


def _difference(a: Array, b: Array) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("size", [1, 13, 64, 224])
def test_views_are_within_one_level_of_the_reference(samples: list[Array], size: int) -> None:
    boxes = _random_boxes(samples, 3, seed=size)
    flips = np.random.default_rng(size).random(boxes.shape[:2]) < 0.5
    views = decode_fast(samples, boxes, flips, size)
    assert views.shape == (3, len(samples), size, size, 3)
    assert views.flags.c_contiguous
    assert _difference(views, decode(samples, boxes, flips, size)) <= 1


def test_a_box_shifted_by_one_pixel_is_not_within_one_level(samples: list[Array]) -> None:
    for shift in ((1, 0, 1, 0), (0, 1, 0, 1), (0, 0, 0, 1), (1, 0, 0, 0)):
        boxes = np.tile([4.0, 4, 40, 44], (len(samples), 1, 1))
        no_flips = np.zeros((len(samples), 1), bool)
        shifted = decode_fast(samples, boxes + shift, no_flips, 32)
        expected = decode(samples, boxes, no_flips, 32)
        assert all(_difference(shifted[0, i], expected[0, i]) > 1 for i in range(len(samples)))


def test_a_mirrored_view_is_the_exact_mirror_image(samples: list[Array]) -> None:
    boxes = np.repeat(_random_boxes(samples, 1, seed=5), 2, axis=1)
    flips = np.tile([False, True], (len(samples), 1))
    plain, mirrored = decode_fast(samples, boxes, flips, 31)
    np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])


def test_jpeg_decoding_gives_pillows_pixels(samples: list[Array]) -> None:
    for sample in samples:
        pixels = _pixels(sample)
        size = min(pixels.shape[:2])  # a box of this size is not resized
        box = np.array([[(0, 0, size, size)]], np.float64)
        view = decode_fast([sample], box, np.zeros((1, 1), bool), size)[0, 0]
        np.testing.assert_array_equal(view, pixels[:size, :size])


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("L", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": "4:4:4", "quality": 97}),
        ("RGB", {"subsampling": "4:2:2", "optimize": True}),
        ("RGB", {"restart_marker_rows": 1}),
    ],
)
def test_other_kinds_of_jpeg_become_rgb(samples: list[Array], mode: str, settings: dict[str, object]) -> None:
    sample = _encode(Image.fromarray(_pixels(samples[2])).convert(mode), **settings)
    box, flip = _whole(sample), np.zeros((1, 1), bool)
    assert _difference(decode_fast([sample], box, flip, 40), decode([sample], box, flip, 40)) <= 1


def test_a_jpeg_in_cmyk_is_refused(samples: list[Array]) -> None:
    """No converter puts one in, and libjpeg has no conversion to RGB."""
    sample = _encode(Image.fromarray(_pixels(samples[2])).convert("CMYK"))
    with pytest.raises(DecodeError, match=r"sample 0: not a readable JPEG .*color conversion"):
        decode_into([sample], _whole(samples[2]), np.zeros((1, 1), bool), np.empty((1, 1, 8, 8, 3), np.uint8))


def test_fractional_boxes_see_their_surroundings(samples: list[Array]) -> None:
    boxes = _random_boxes(samples, 2, seed=9)
    boxes[:, 1] = boxes[:, 0] * 0.75 + 0.125
    flips = np.random.default_rng(0).random(boxes.shape[:2]) < 0.5
    views = decode_fast(samples, boxes, flips, 45, crop_first=False)
    expected = decode(samples, boxes, flips, 45, crop_first=False)
    assert _difference(views, expected) <= 1
    cropped = decode(samples, boxes[:, :1], flips[:, :1], 45)
    assert _difference(views[:1], cropped) > 1  # the same boxes without their surroundings


def test_read_only_raw_pixels(samples: list[Array]) -> None:
    raw = [_pixels(sample) for sample in samples]
    assert not raw[0].flags.writeable  # like a slice of a memmap
    boxes = _random_boxes(samples, 2, seed=3)
    flips = np.random.default_rng(1).random(boxes.shape[:2]) < 0.5
    np.testing.assert_array_equal(decode_fast(raw, boxes, flips, 24), decode_fast(samples, boxes, flips, 24))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_breaks_off_anywhere_is_an_error(samples: list[Array], progressive: bool) -> None:
    image = Image.fromarray(_pixels(samples[4])[:48, :56])
    whole = _encode(image, quality=80, progressive=progressive)
    flip, out = np.zeros((1, 1), bool), np.empty((1, 1, 8, 8, 3), np.uint8)
    for box in (_whole(whole), np.array([[(3.0, 2, 9, 30)]])):  # the second needs the first rows only
        decode_into([whole], box, flip, out)
        for length in range(len(whole)):
            with pytest.raises(DecodeError, match="sample 0: not a readable JPEG"):
                decode_into([whole[:length]], box, flip, out)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.array([], np.uint8), "no bytes"),
        (np.arange(200, dtype=np.uint8), "no frame header"),
        (np.frombuffer(b"\x89PNG\r\n\x1a\n" + bytes(64), np.uint8), "no frame header"),
    ],
)
def test_a_bad_jpeg_is_reported_with_its_position_in_the_batch(
    samples: list[Array], bad: Array, reason: str
) -> None:
    batch = [*samples[:6], bad, *samples[6:]]
    boxes = np.tile([0.0, 0, 40, 40], (len(batch), 2, 1))
    with pytest.raises(DecodeError, match=reason) as caught:
        decode_fast(batch, boxes, np.zeros((len(batch), 2), bool), 16)
    assert caught.value.position == 6
    views = decode_fast(samples, boxes[:-1], np.zeros((len(samples), 2), bool), 16)
    assert _difference(views, decode(samples, boxes[:-1], np.zeros((len(samples), 2), bool), 16)) <= 1


def test_an_end_marker_replaced_by_zeros_is_an_error(samples: list[Array]) -> None:
    sample = samples[0].copy()
    sample[-2:] = 0
    with pytest.raises(DecodeError, match="Premature end"):
        decode_into([sample], _whole(samples[0]), np.zeros((1, 1), bool), np.empty((1, 1, 8, 8, 3), np.uint8))


def test_an_impossible_box_is_reported_with_its_position_in_the_batch(samples: list[Array]) -> None:
    boxes = np.tile([0.0, 0, 40, 40], (len(samples), 1, 1))
    no_flips = np.zeros((len(samples), 1), bool)
    boxes[7, 0, 3] = 10_000
    with pytest.raises(ValueError, match=r"sample 7: box .* leaves the image"):
        decode_fast(samples, boxes, no_flips, 16)
    boxes[7, 0] = (0, 0, 20.5, 20)
    with pytest.raises(ValueError, match=r"sample 7: .*crop_first=False"):
        decode_fast(samples, boxes, no_flips, 16)


def test_threads_do_not_share_a_decoders_memory(samples: list[Array]) -> None:
    boxes = _random_boxes(samples, 2, seed=8)
    flips = np.zeros(boxes.shape[:2], bool)
    expected = decode(samples, boxes, flips, 20)
    with ThreadPool(8) as pool:
        views = [pool.submit(decode_fast, samples, boxes, flips, 20) for _ in range(40)]
        assert all(_difference(future.result(), expected) <= 1 for future in views)
