from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from torchvision.transforms import ColorJitter

from pipelines.draws.colours import ColourSettings, draw_colour
from pipelines.draws.draw import Draw
from pipelines.user_error import UserError

N = 30_000
DRAW = Draw(4, 1, np.arange(N), stream=1, view=1)
SETTINGS = ColourSettings(
    brightness=0.3, contrast=0.7, saturation=1.5, gray_probability=0.15, blur_probability=0.6
)


def test_shapes_and_dtypes() -> None:
    drawn = draw_colour(Draw(4, 1, np.arange(7)), ColourSettings())
    assert (drawn.order.shape, drawn.order.dtype) == ((7, 3), np.uint8)
    for factor in (drawn.brightness, drawn.contrast, drawn.saturation, drawn.blur_sigma):
        assert (factor.shape, factor.dtype) == ((7,), np.float32)
    assert (drawn.gray.shape, drawn.gray.dtype) == ((7,), np.bool_)


def test_orders_are_permutations_and_equally_likely() -> None:
    order = draw_colour(DRAW, SETTINGS).order
    assert (np.sort(order, axis=1) == [0, 1, 2]).all()
    orders, counts = np.unique(order, axis=0, return_counts=True)
    assert len(orders) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_are_uniform_between_torchvisions_bounds(name: str) -> None:
    factors = getattr(draw_colour(DRAW, SETTINGS), name)
    low, high = getattr(ColorJitter(**{name: getattr(SETTINGS, name)}), name)
    assert factors.min() >= np.float32(low) and factors.max() <= np.float32(high)
    assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_gray_and_blur() -> None:
    drawn = draw_colour(DRAW, SETTINGS)
    blurred = drawn.blur_sigma[drawn.blur_sigma > 0]
    assert stats.binomtest(int(drawn.gray.sum()), N, 0.15).pvalue > 1e-3
    assert stats.binomtest(len(blurred), N, 0.6).pvalue > 1e-3
    assert stats.kstest(blurred, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_parameters_of_a_view_are_independent() -> None:
    drawn = draw_colour(DRAW, SETTINGS)
    first = drawn.order[:, 0]
    columns = [first, drawn.brightness, drawn.contrast, drawn.saturation, drawn.gray, drawn.blur_sigma]
    correlation = np.corrcoef(np.stack(columns).astype(np.float64)) - np.eye(len(columns))
    assert np.abs(correlation).max() < 4 / np.sqrt(N)


def test_strength_0_changes_nothing() -> None:
    settings = ColourSettings(brightness=0, contrast=0, saturation=0, gray_probability=0, blur_probability=0)
    drawn = draw_colour(DRAW, settings)
    assert (np.stack([drawn.brightness, drawn.contrast, drawn.saturation]) == 1).all()
    assert not drawn.gray.any()
    assert not drawn.blur_sigma.any()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"brightness": -0.1}, "colour.brightness is -0.1: it must be a finite number, 0 or more"),
        ({"saturation": float("nan")}, "colour.saturation is nan"),
        ({"gray_probability": 1.1}, r"colour.gray_probability is 1.1: it must lie in \[0, 1\]"),
        ({"blur_probability": -1}, "colour.blur_probability is -1"),
        ({"blur_sigma": (0, 2)}, r"colour.blur_sigma is \(0, 2\): it must be \(low, high\) with 0 < low"),
        ({"blur_sigma": (2, 1)}, r"colour.blur_sigma is \(2, 1\)"),
    ],
)
def test_impossible_settings(setting: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ColourSettings(**setting)
