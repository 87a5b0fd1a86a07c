from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import from_numpy

from pipelines.mix_cpu import mix_into, normalise_into
from pipelines.mix_reference import mix

MEAN, STD = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)


def _views(n: int, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (2, n, height, width, 3)).astype(np.uint8)


def _mix(
    a: NDArray[np.uint8], b: NDArray[np.uint8], lam: NDArray[np.float32], boxes: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    out_mix, out_cut = (np.full(a.shape[1:], np.nan, np.float32) for _ in range(2))
    mix_into(a, b, lam, boxes, MEAN, STD, out_mix, out_cut)
    return out_mix, out_cut


def _random_boxes(n: int, height: int, width: int, seed: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(0, height + 1, (n, 2)), axis=1)
    columns = np.sort(rng.integers(0, width + 1, (n, 2)), axis=1)
    return np.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], axis=1).astype(np.int32)


@pytest.mark.parametrize(("n", "height", "width"), [(1, 1, 1), (1, 7, 5), (5, 9, 13), (2, 3, 70)])
def test_every_element_against_a_slow_loop_in_float64(n: int, height: int, width: int) -> None:
    a, b = _views(n, height, width, 0), _views(n, height, width, 1)
    lam = np.random.default_rng(2).random(n).astype(np.float32)
    boxes = _random_boxes(n, height, width, 3)
    out_mix, out_cut = _mix(a, b, lam, boxes)
    for i, y, x, c in np.ndindex(n, height, width, 3):
        weight = float(lam[i])
        mixed_up = weight * int(a[0, i, y, x, c]) + (1 - weight) * int(b[0, i, y, x, c])
        inside = boxes[i, 0] <= y < boxes[i, 2] and boxes[i, 1] <= x < boxes[i, 3]
        cut_mixed = int(b[1, i, y, x, c]) if inside else int(a[1, i, y, x, c])
        assert out_mix[i, y, x, c] == pytest.approx((mixed_up / 255 - MEAN[c]) / STD[c], abs=2e-6)
        assert out_cut[i, y, x, c] == pytest.approx((cut_mixed / 255 - MEAN[c]) / STD[c], abs=2e-6)


def test_weights_and_boxes_at_their_ends() -> None:
    """λ = 1 and an empty box leave image a, λ = 0 and a full box image b, to the last bit."""
    a, b = _views(4, 6, 8, 4), _views(4, 6, 8, 5)
    lam = np.array([1, 0, 1, 0], np.float32)
    boxes = np.array([[0, 0, 0, 0], [0, 0, 6, 8], [3, 0, 3, 8], [0, 0, 6, 8]], np.int32)
    out_mix, out_cut = _mix(a, b, lam, boxes)
    source = np.array([0, 1, 0, 1])
    for v, out in enumerate((out_mix, out_cut)):
        chosen = np.where(source[:, None, None, None] == 0, a[v], b[v])
        expected = np.empty_like(out)
        normalise_into(chosen, MEAN, STD, expected)
        np.testing.assert_array_equal(out, expected)


def test_a_pair_of_the_usual_size_is_the_references() -> None:
    a, b = _views(3, 224, 224, 6), _views(3, 224, 224, 7)
    lam, boxes = np.array([0.1, 0.5, 0.93], np.float32), _random_boxes(3, 224, 224, 8)
    out = np.concatenate(_mix(a, b, lam, boxes))
    expected = mix(from_numpy(a), from_numpy(b), from_numpy(lam), from_numpy(boxes), MEAN, STD)
    torch.testing.assert_close(from_numpy(out).permute(0, 3, 1, 2), expected, atol=2e-6, rtol=0)


def test_slices_mixed_by_several_threads_are_one_batch() -> None:
    n = 9
    a, b = _views(n, 17, 19, 9), _views(n, 17, 19, 10)
    lam, boxes = np.linspace(0, 1, n, dtype=np.float32), _random_boxes(n, 17, 19, 11)
    whole = np.concatenate(_mix(a, b, lam, boxes))
    batch = np.full((2 * n, 17, 19, 3), np.nan, np.float32)

    def task(start: int) -> None:
        s = slice(start, start + 2)
        mix_into(a[:, s], b[:, s], lam[s], boxes[s], MEAN, STD, batch[:n][s], batch[n:][s])

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(task, range(0, n, 2)))
    np.testing.assert_array_equal(batch, whole)


def test_normalise_every_level_of_every_channel() -> None:
    views = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(4, 8, 8, 3)
    out = np.empty(views.shape, np.float32)
    normalise_into(views[1:], MEAN, STD, out[1:])
    normalise_into(views[:1], MEAN, STD, out[:1])
    expected = (views.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize(
    "box", [(0, 0, 7, 8), (0, 0, 6, 9), (-1, 0, 3, 3), (0, -1, 3, 3), (4, 0, 3, 3), (0, 4, 3, 3)]
)
def test_a_box_that_leaves_the_view_is_refused(box: tuple[int, ...]) -> None:
    a = _views(2, 6, 8, 0)
    boxes = np.array([(0, 0, 6, 8), box], np.int32)
    with pytest.raises(ValueError, match=r"pair 1: cut box .* leaves the view, which has 6 rows of 8"):
        _mix(a, a, np.ones(2, np.float32), boxes)
