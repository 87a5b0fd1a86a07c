from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

from pipelines.beton.reader import BetonFile
from pipelines.decode_cpu import decode_into
from pipelines.draws.colours import ColourDraws
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.jpeg.turbojpeg import require_library
from pipelines.user_error import UserError
from pipelines.view_sources import DecodedViews, ResidentViews, open_views

INDICES = np.array([13, 2, 22, 2, 0, 7, 18], np.int64)
ROWS = slice(2, 6)  # not from 0, so that a forgotten offset shows
VIEWS, SIZE = 3, 37


def _colours(seed: int) -> tuple[ColourDraws, ...]:
    rng = np.random.default_rng(seed)
    n = len(INDICES)
    factors = rng.uniform(0.6, 1.4, size=(VIEWS, 3, n)).astype(np.float32)
    return tuple(
        ColourDraws(
            order=np.stack([rng.permutation(3) for _ in range(n)]).astype(np.uint8),
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            gray=np.arange(n) % 4 == view,
            blur_sigma=np.where(np.arange(n) % 2 == view % 2, 1.5, 0).astype(np.float32),
        )
        for view, (brightness, contrast, saturation) in enumerate(factors)
    )


def _boxes(files: list[Path]) -> np.ndarray:
    """(7, 3, 4) int32, anywhere inside each image."""
    rng = np.random.default_rng(8)
    boxes = np.empty((len(INDICES), VIEWS, 4), np.int32)
    for i, index in enumerate(INDICES):
        with Image.open(files[index]) as image:
            width, height = image.size
        for v in range(VIEWS):
            h, w = rng.integers(20, height + 1), rng.integers(20, width + 1)
            y0, x0 = rng.integers(height - h + 1), rng.integers(width - w + 1)
            boxes[i, v] = y0, x0, y0 + h, x0 + w
    return boxes


def _flips() -> np.ndarray:
    return np.random.default_rng(9).random((len(INDICES), VIEWS)) < 0.5


def _jittered(image: Image.Image, colour: ColourDraws, i: int) -> Image.Image:
    for operation in colour.order[i]:
        if operation == 0:
            image = TF.adjust_brightness(image, float(colour.brightness[i]))
        elif operation == 1:
            image = TF.adjust_contrast(image, float(colour.contrast[i]))
        else:
            image = TF.adjust_saturation(image, float(colour.saturation[i]))
    if colour.gray[i]:
        image = image.convert("L").convert("RGB")
    if colour.blur_sigma[i]:
        image = image.filter(ImageFilter.GaussianBlur(float(colour.blur_sigma[i])))
    return image


def _slow_view(file: Path, how: ViewDraws, i: int, v: int) -> np.ndarray:
    y0, x0, y1, x1 = how.crops[i, v].tolist()
    with Image.open(file) as image:
        view = image.crop((x0, y0, x1, y1)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    if how.flips[i, v]:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(_jittered(view, how.colours[v], i) if how.colours else view).astype(int)


@pytest.mark.parametrize(("colours", "levels"), [((), 1), (_colours(4), 5)])
def test_decoded_training_views(
    photographs: BetonFile, photograph_files: list[Path], colours: tuple[ColourDraws, ...], levels: int
) -> None:
    # A level that the resize is off grows by three factors of up to 1.4, and augment may add two.
    how = ViewDraws(INDICES, _boxes(photograph_files), _flips(), colours)
    out = np.zeros((VIEWS, 4, SIZE, SIZE, 3), np.uint8)
    open_views(photographs, ViewSettings(size=SIZE)).training_views(how, ROWS, out)
    for v in range(VIEWS):
        for row, i in enumerate(range(ROWS.start, ROWS.stop)):
            difference = np.abs(out[v, row] - _slow_view(photograph_files[INDICES[i]], how, i, v))
            assert difference.max() <= levels
            assert difference.mean() < 0.5


def test_decoded_evaluation_views(photographs: BetonFile, photograph_files: list[Path]) -> None:
    out = np.zeros((len(INDICES), SIZE, SIZE, 3), np.uint8)
    source = open_views(photographs, ViewSettings(size=SIZE, eval_resize=51))
    source.evaluation_views(INDICES, out)
    for index, view in zip(INDICES, out, strict=True):
        with Image.open(photograph_files[index]) as image:
            expected = TF.center_crop(TF.resize(image, 51), [SIZE, SIZE])
        assert np.abs(view - np.asarray(expected).astype(int)).max() <= 1


def _digit(beton: BetonFile, index: int) -> np.ndarray:
    """The image, made anew from scikit-learn's digits: its source path ends with its row there."""
    path = beton.source_path(index)
    assert path is not None
    levels = load_digits().images[int(path.rpartition("/")[2])]
    gray = Image.fromarray(np.round(levels * 255 / 16).astype(np.uint8))
    enlarged = np.asarray(gray.resize((32, 32), Image.Resampling.BILINEAR))
    return np.repeat(enlarged[:, :, None], 3, axis=2)


@pytest.mark.parametrize("coloured", [False, True])
def test_resident_training_views(digits: BetonFile, coloured: bool) -> None:
    pad = 5
    offsets = np.random.default_rng(2).integers(0, 2 * pad + 1, (len(INDICES), VIEWS, 2)).astype(np.int32)
    offsets[2, 0], offsets[3, 1] = (0, 10), (10, 0)
    how = ViewDraws(INDICES, offsets, _flips(), _colours(5) if coloured else ())
    out = np.full((VIEWS, 4, 32, 32, 3), 77, np.uint8)
    open_views(digits, ViewSettings(size=32, crop="padded", pad=pad)).training_views(how, ROWS, out)
    for v in range(VIEWS):
        for row, i in enumerate(range(ROWS.start, ROWS.stop)):
            dy, dx = offsets[i, v]
            padded = np.pad(_digit(digits, INDICES[i]), ((pad, pad), (pad, pad), (0, 0)))
            view = padded[dy : dy + 32, dx : dx + 32]
            view = view[:, ::-1] if how.flips[i, v] else view
            if coloured:
                jittered = _jittered(Image.fromarray(np.ascontiguousarray(view)), how.colours[v], i)
                assert np.abs(out[v, row] - np.asarray(jittered).astype(int)).max() <= 2
            else:
                np.testing.assert_array_equal(out[v, row], view)


def test_resident_evaluation_views_are_the_images(digits: BetonFile) -> None:
    out = np.zeros((len(INDICES), 32, 32, 3), np.uint8)
    open_views(digits, ViewSettings(size=32, crop="padded")).evaluation_views(INDICES, out)
    for index, view in zip(INDICES, out, strict=True):
        np.testing.assert_array_equal(view, _digit(digits, index))


def test_the_crop_says_which_source(digits: BetonFile, photographs: BetonFile) -> None:
    assert isinstance(open_views(photographs, ViewSettings(size=32)), DecodedViews)
    assert isinstance(open_views(digits, ViewSettings(size=48)), DecodedViews)
    assert isinstance(open_views(digits, ViewSettings(size=32, crop="padded")), ResidentViews)


def test_a_padded_crop_of_photographs_is_refused(photographs: BetonFile) -> None:
    message = (
        rf"{re.escape(str(photographs.path))}: view\.crop padded needs .* raw .* use --view\.crop resized"
    )
    with pytest.raises(UserError, match=message):
        open_views(photographs, ViewSettings(size=32, crop="padded"))


def test_a_padded_crop_of_another_size_is_refused(digits: BetonFile) -> None:
    message = (
        rf"{re.escape(str(digits.path))}: its images are 32 x 32 pixels and view\.size is 28; .* "
        r"set view\.size to it"
    )
    with pytest.raises(UserError, match=message):
        open_views(digits, ViewSettings(size=28, crop="padded"))


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_bad_image_is_named(
    photographs: BetonFile,
    break_off: Callable[[BetonFile, int, Path], BetonFile],
    tmp_path: Path,
    recorded: bool,
    evaluation: bool,
) -> None:
    beton = break_off(photographs, 7, tmp_path / "damaged.beton")
    if not recorded:
        beton = dataclasses.replace(beton, manifest=None)
    source = open_views(beton, ViewSettings(size=16))
    named = r"00007\.jpg" if recorded else "source path not recorded"
    message = (
        rf"{re.escape(str(tmp_path))}/damaged\.beton: image 7 \({named}\) is not a readable JPEG \(.*\); "
        "convert the set again from a sound copy of that image"
    )
    with pytest.raises(UserError, match=message):
        if evaluation:
            source.evaluation_views(INDICES[3:], np.zeros((4, 16, 16, 3), np.uint8))
        else:
            boxes = np.tile(np.array([0, 0, 40, 40], np.int32), (len(INDICES), 1, 1))
            how = ViewDraws(INDICES, boxes, np.zeros((len(INDICES), 1), bool), ())
            source.training_views(how, slice(3, 7), np.zeros((1, 4, 16, 16, 3), np.uint8))


def test_an_image_of_another_size_than_the_tables_say_is_named(photographs: BetonFile) -> None:
    heights = photographs.heights.copy()
    heights[7] += 100
    beton = dataclasses.replace(photographs, heights=heights)
    boxes = np.tile(np.array([0, 0, 20, 20], np.int32), (len(INDICES), 1, 1))
    boxes[INDICES == 7, 0] = (heights[7] - 20, 0, heights[7], 20)
    how = ViewDraws(INDICES, boxes, np.zeros((len(INDICES), 1), bool), ())
    message = rf"image 7 \(00007\.jpg\) is not {heights[7]} x \d+ pixels, as the file says; convert"
    with pytest.raises(UserError, match=message):
        open_views(beton, ViewSettings(size=16)).training_views(
            how, slice(0, len(INDICES)), np.zeros((1, len(INDICES), 16, 16, 3), np.uint8)
        )


def test_turbojpeg_is_asked_for_where_jpegs_are_opened_and_not_before(
    photographs: BetonFile, digits: BetonFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without it trains on sets in memory; a JPEG of a rarer kind may come in the middle of an epoch."""
    out = np.zeros((1, 1, SIZE, SIZE, 3), np.uint8)
    box = np.array([[[0.0, 0, photographs.heights[0], photographs.widths[0]]]])
    common = [photographs.image_bytes(0)]
    monkeypatch.setattr("pipelines.jpeg.turbojpeg.LIBRARY", "libnone.so.0")
    require_library.cache_clear()
    try:
        open_views(digits, ViewSettings(size=32, crop="padded"))
        with pytest.raises(UserError, match=r"libnone\.so\.0 cannot be loaded .* install TurboJPEG"):
            open_views(photographs, ViewSettings(size=SIZE))
        with ThreadPoolExecutor(1) as thread:  # a new one, which has no decoders yet
            thread.submit(decode_into, common, box, np.zeros((1, 1), np.bool_), out).result()
    finally:
        require_library.cache_clear()
    assert out.any()
