"""Crops against torchvision: box for box in a slow loop, and in distribution against its own `get_params`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torchvision.transforms import RandomCrop, RandomResizedCrop

from pipelines.draws.crops import draw_flips, draw_padded_offsets, draw_resized_boxes
from pipelines.draws.draw import Draw, Purpose, uniforms
from pipelines.user_error import UserError

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def torchvision_boxes(
    height: int, width: int, count: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    y0, x0, h, w = np.array(drawn).T
    return np.stack([y0, x0, y0 + h, x0 + w], axis=1)


def our_boxes(
    height: int, width: int, count: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> NDArray[np.int32]:
    sizes = np.full(count, height, np.int32), np.full(count, width, np.int32)
    return draw_resized_boxes(Draw(1, 2, np.arange(count)), *sizes, scale=scale, ratio=ratio)


def slow_box(u: NDArray[np.float64], height: int, width: int) -> tuple[int, int, int, int]:
    """One box in plain Python from the 40 numbers of a sample; its `round` is half to even."""
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for u_area, u_ratio, u_y, u_x in u.reshape(10, 4).tolist():
        area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * u_area)
        ratio = math.exp(low + (high - low) * u_ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            y0, x0 = math.floor(u_y * (height - h + 1)), math.floor(u_x * (width - w + 1))
            return y0, x0, y0 + h, x0 + w
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    y0, x0 = (height - h) // 2, (width - w) // 2
    return y0, x0, y0 + h, x0 + w


def test_box_for_box() -> None:
    rng = np.random.default_rng(3)
    heights = np.concatenate([rng.integers(1, 30, 3000), rng.integers(1, 3000, 3000)]).astype(np.int32)
    widths = rng.permutation(heights)
    draw = Draw(2**63 + 5, 9, rng.integers(0, 2**40, len(heights)), stream=1, view=1)
    boxes = draw_resized_boxes(draw, heights, widths)
    assert boxes.dtype == np.int32
    u = uniforms(draw, Purpose.RESIZED_CROP, 40)
    expected = [slow_box(*row) for row in zip(u, heights.tolist(), widths.tolist(), strict=True)]
    np.testing.assert_array_equal(boxes, expected)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (4, 6, SCALE, RATIO),
        (7, 5, (0.2, 0.6), (0.5, 1.5)),
        (3, 17, SCALE, RATIO),
        (12, 2, SCALE, RATIO),
        (1, 1, SCALE, RATIO),
    ],
)
def test_every_box_of_a_small_image_is_as_likely_as_in_torchvision(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    ours, theirs = (
        our_boxes(height, width, 60_000, scale, ratio),
        torchvision_boxes(height, width, 15_000, scale, ratio),
    )
    names, codes = np.unique(np.concatenate([ours, theirs]), axis=0, return_inverse=True)
    table = np.stack(
        [np.bincount(part, minlength=len(names)) for part in (codes[: len(ours)], codes[len(ours) :])]
    )
    rare = table.sum(axis=0) < 50
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] == 1:
        assert (height, width) == (1, 1)  # there is one box
    else:
        assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(375, 500), (640, 427), (60, 200)])
def test_distribution_on_photographs(height: int, width: int) -> None:
    ours, theirs = (
        make(height, width, count, SCALE, RATIO).astype(np.float64)
        for make, count in ((our_boxes, 60_000), (torchvision_boxes, 15_000))
    )
    for statistic in (area, log_ratio, lambda b: b[:, 0], lambda b: b[:, 1], lambda b: b[:, 2] + b[:, 3]):
        assert stats.ks_2samp(statistic(ours), statistic(theirs)).pvalue > 1e-3


def area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def log_ratio(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log((boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0]))


@pytest.mark.parametrize(("height", "width"), [(9, 500), (500, 9)])
def test_a_very_elongated_image_gives_its_centre_as_often_as_in_torchvision(height: int, width: int) -> None:
    (ours, our_count), (theirs, their_count) = (
        np.unique(make(height, width, count, (0.3, 1.0), RATIO), axis=0, return_counts=True)
        for make, count in ((our_boxes, 500), (torchvision_boxes, 500))
    )
    np.testing.assert_array_equal(ours, theirs)  # nothing ever fits: the centre, 9 x 12
    assert our_count.tolist() == their_count.tolist() == [500]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.5, 0.2), (-1.0, 1.0)])
def test_impossible_bounds(bounds: tuple[float, float]) -> None:
    with pytest.raises(
        UserError, match=r"scale of the resized crop is .*: it must be \(low, high\) with 0 < low"
    ):
        our_boxes(10, 10, 1, bounds, RATIO)
    with pytest.raises(
        UserError, match=r"ratio of the resized crop is .*: it must be \(low, high\) with 0 < low"
    ):
        our_boxes(10, 10, 1, SCALE, bounds)


def test_padded_offsets() -> None:
    pad, size = 4, 32
    offsets = draw_padded_offsets(Draw(1, 2, np.arange(100_000)), pad)
    assert offsets.dtype == np.int32
    padded = torch.empty(3, size + 2 * pad, size + 2 * pad)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomCrop.get_params(padded, (size, size))[:2] for _ in range(5000)])
    counts = [np.histogram2d(*o.T, bins=9, range=[[0, 9], [0, 9]])[0].ravel() for o in (offsets, theirs)]
    assert counts[0].sum() == len(offsets)
    assert stats.chisquare(counts[0]).pvalue > 1e-3
    assert stats.chi2_contingency(np.stack(counts)).pvalue > 1e-3
    assert not draw_padded_offsets(Draw(1, 2, np.arange(10)), 0).any()
    with pytest.raises(UserError, match="padding of the random crop is -1"):
        draw_padded_offsets(Draw(1, 2, np.arange(10)), -1)


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_flips(probability: float) -> None:
    flips = draw_flips(Draw(1, 2, np.arange(20_000)), probability)
    assert flips.dtype == np.bool_
    assert stats.binomtest(int(flips.sum()), len(flips), probability).pvalue > 1e-3
    with pytest.raises(UserError, match=r"flip probability is 1.5: it must lie in \[0, 1\]"):
        draw_flips(Draw(1, 2, np.arange(3)), 1.5)


def test_views_and_streams_have_draws_of_their_own() -> None:
    places, sizes = np.arange(500), np.full(500, 200, np.int32)
    draws = [Draw(1, 2, places, stream, view) for stream in (0, 1) for view in (0, 1)]
    boxes = np.stack([draw_resized_boxes(draw, sizes, sizes) for draw in draws])
    for i in range(len(draws)):
        for j in range(i):
            assert (boxes[i] != boxes[j]).any(axis=1).mean() > 0.99
