from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.reader import BetonFile
from pipelines.draws.colours import ColourDraws
from pipelines.draws.draw import Draw
from pipelines.draws.views import ViewDraws, ViewSettings, draw_views
from pipelines.user_error import UserError
from pipelines.view_sources import open_views

PLACES = np.array([0, 7, 3, 12, 40, 5, 1], np.int64)
INDICES = np.array([4, 4, 20, 0, 11, 22, 9], np.int64)


def _draw(beton: BetonFile, settings: ViewSettings, views: int = 2, **where: int) -> ViewDraws:
    draw = Draw(5, 2, PLACES, **where)
    return draw_views(draw, INDICES, views, settings, open_views(beton, settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, r"view\.size is 0: it must be at least 1 pixel"),
        ({"size": 257}, r"view\.eval_resize is 256, less than view\.size 257"),
        ({"size": 8, "eval_resize": 7}, r"view\.eval_resize is 7, less than view\.size 8"),
        ({"std": (0.2, 0.0, 0.2)}, r"view\.std has 0\.0: a standard deviation must be above 0"),
        ({"std": (0.2, 0.2, -1.0)}, r"view\.std has -1\.0"),
        ({"std": (math.nan, 0.2, 0.2)}, r"view\.std has nan"),
        ({"std": (math.inf, 0.2, 0.2)}, r"view\.std has inf"),
        ({"scale": (0.5, 0.2)}, r"view\.scale is \(0\.5, 0\.2\): it must be \(low, high\)"),
        ({"scale": (0.5, 1.2)}, r"view\.scale is \(0\.5, 1\.2\)"),
        ({"pad": -1}, r"view\.pad is -1: it must be 0 or more pixels"),
        ({"flip": 2.0}, r"view\.flip is 2\.0: a probability lies in \[0, 1\]"),
        ({"mean": (0.1, math.nan, 0.1)}, r"view\.mean is .*: its three values must be finite"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ViewSettings(**settings)  # type: ignore[arg-type]


def test_a_padded_crop_does_not_care_for_the_resize_of_evaluation() -> None:
    assert ViewSettings(size=300, crop="padded").eval_resize < 300
    assert ViewSettings(size=256).size == 256


def test_resized_crops_lie_in_their_own_images(photographs: BetonFile, photograph_files: list[Path]) -> None:
    how = _draw(photographs, ViewSettings(size=16, scale=(0.9, 1.0)), views=3)
    assert how.crops.shape == (7, 3, 4) and how.crops.dtype == np.int32
    assert how.flips.shape == (7, 3) and how.flips.dtype == bool
    assert how.colours == ()
    np.testing.assert_array_equal(how.indices, INDICES)
    for index, boxes in zip(INDICES, how.crops, strict=True):
        with Image.open(photograph_files[index]) as image:
            width, height = image.size
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= height).all() and (boxes[:, 3] <= width).all()
        assert boxes[:, 2].max() > 0.6 * height and boxes[:, 3].max() > 0.6 * width


def test_resized_crops_have_the_share_of_the_settings(photographs: BetonFile) -> None:
    boxes = _draw(photographs, ViewSettings(size=16, scale=(0.05, 0.06)), views=5).crops.astype(float)
    area = (boxes[:, :, 2] - boxes[:, :, 0]) * (boxes[:, :, 3] - boxes[:, :, 1])
    share = area / (photographs.heights[INDICES] * photographs.widths[INDICES])[:, None]
    assert share.min() > 0.045 and share.max() < 0.066  # sides are rounded to whole pixels


def test_padded_crops_are_offsets_within_twice_the_padding(digits: BetonFile) -> None:
    how = _draw(digits, ViewSettings(size=32, crop="padded", pad=2), views=9)
    assert how.crops.shape == (7, 9, 2) and how.crops.dtype == np.int32
    assert set(how.crops.ravel().tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("probability", "values"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_flips_have_the_probability_of_the_settings(
    digits: BetonFile, probability: float, values: set[bool]
) -> None:
    how = _draw(digits, ViewSettings(size=32, crop="padded", flip=probability), views=4)
    assert set(how.flips.ravel().tolist()) == values


def _rows(how: ViewDraws, rows: list[int]) -> list[np.ndarray]:
    """Everything that is drawn for some of the images, as a flat list of arrays."""
    names = [field.name for field in dataclasses.fields(ColourDraws)]
    colours = [getattr(colour, name)[rows] for colour in how.colours for name in names]
    return [how.crops[rows], how.flips[rows], *colours]


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> list[bool]:
    return [np.array_equal(x, y) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("crop", ["resized", "padded"])
def test_every_view_stream_and_epoch_has_chance_of_its_own(
    crop: str, digits: BetonFile, photographs: BetonFile
) -> None:
    beton = digits if crop == "padded" else photographs
    settings = ViewSettings(size=32, crop=crop, augment="jitter-gray-blur")  # type: ignore[arg-type]
    two = _draw(beton, settings)
    assert len(two.colours) == 2
    everything = list(range(len(PLACES)))
    stream_b = _draw(beton, settings, stream=1)
    # grayscale is rare, so that seven views may well agree by chance: compare the factors
    assert not np.array_equal(two.crops, stream_b.crops)
    assert not np.array_equal(two.crops[:, 0], two.crops[:, 1])
    assert not np.array_equal(two.flips, stream_b.flips)
    assert not np.array_equal(two.flips[:, 0], two.flips[:, 1])
    for colour in (two.colours[1], stream_b.colours[0]):
        for name in ("brightness", "contrast", "saturation", "blur_sigma"):
            assert not np.array_equal(getattr(two.colours[0], name), getattr(colour, name))
    assert all(_same(_rows(two, everything), _rows(_draw(beton, settings), everything)))


@pytest.mark.parametrize("crop", ["resized", "padded"])
def test_the_draws_of_a_place_do_not_depend_on_its_company(
    crop: str, digits: BetonFile, photographs: BetonFile
) -> None:
    beton = digits if crop == "padded" else photographs
    settings = ViewSettings(size=32, crop=crop, augment="jitter-gray-blur")  # type: ignore[arg-type]
    whole, chosen = _draw(beton, settings), [6, 1, 4]
    source = open_views(beton, settings)
    part = draw_views(Draw(5, 2, PLACES[chosen]), INDICES[chosen], 2, settings, source)
    assert all(_same(_rows(whole, chosen), _rows(part, [0, 1, 2])))
    one_view = _draw(beton, settings, views=1)
    np.testing.assert_array_equal(one_view.crops[:, 0], whole.crops[:, 0])
    np.testing.assert_array_equal(one_view.flips[:, 0], whole.flips[:, 0])
    np.testing.assert_array_equal(one_view.colours[0].brightness, whole.colours[0].brightness)
