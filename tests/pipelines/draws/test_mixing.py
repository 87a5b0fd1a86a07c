from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipelines.draws.draw import Draw
from pipelines.draws.mixing import MixDraws, MixSettings, cut_boxes, draw_mixing
from pipelines.user_error import UserError

H, W = 12, 17
N = 40_000


def drawn(settings: MixSettings, count: int = N, global_batch: int = 8) -> MixDraws:
    draw = Draw(6, 2, np.arange(count))
    return draw_mixing(draw, settings, height=H, width=W, global_batch=global_batch)


def slow_box(lam: float, cy: int, cx: int) -> tuple[int, int, int, int]:
    """The official box of one pair, with rows first."""
    cut_h, cut_w = math.ceil(H * math.sqrt(1 - lam)), math.ceil(W * math.sqrt(1 - lam))
    return (
        max(cy - cut_h // 2, 0),
        max(cx - cut_w // 2, 0),
        min(cy + cut_h // 2, H),
        min(cx + cut_w // 2, W),
    )


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.2, 8.0])
def test_lam_is_beta_distributed(beta: float) -> None:
    lam = drawn(MixSettings(beta=beta, scope="sample")).lam_mix
    assert lam.dtype == np.float32
    # float32 rounds much of Beta(0.2, 0.2) near 1 to 1 itself: the ends are compared by their probability.
    law, low, high = stats.beta(beta, beta), 1e-5, 1 - 1e-5
    inside = lam[(lam > low) & (lam < high)]
    probability = law.cdf(high) - law.cdf(low)
    assert stats.binomtest(len(inside), N, probability).pvalue > 1e-3
    assert stats.kstest(inside, lambda x: (law.cdf(x) - law.cdf(low)) / probability).pvalue > 1e-3


@pytest.mark.parametrize("beta", [1e-3, 0.05, 1.0, 1e4])
def test_weights_stay_in_the_unit_interval(beta: float) -> None:
    mix = drawn(MixSettings(beta=beta, scope="sample", cut_label="area"))
    for lam in (mix.lam_mix, mix.lam_cut):
        assert lam.dtype == np.float32
        assert lam.min() >= 0 and lam.max() <= 1  # not NaN


@pytest.mark.parametrize(
    ("lam", "centre", "box"),
    [
        (0.75, (5, 8), (2, 4, 8, 12)),  # 6 x 9 of 12 x 17 (8.5 rounded up); the odd 9 loses a column
        (0.75, (0, 16), (0, 12, 3, 17)),  # clipped at the top and on the right
        (0.75, (11, 0), (8, 0, 12, 4)),
        (0.0, (6, 8), (0, 0, 12, 16)),  # the whole image, but 17 is odd
        (0.0, (0, 0), (0, 0, 6, 8)),
        (1.0, (3, 4), (3, 4, 3, 4)),  # nothing is cut
        (0.9999, (3, 4), (3, 4, 3, 4)),  # ceil gives 1 x 1, halved to 0
    ],
)
def test_boxes_worked_by_hand(lam: float, centre: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    cy, cx = (np.array([c]) for c in centre)
    boxes = cut_boxes(np.array([lam], np.float32), cy, cx, H, W)
    assert boxes.dtype == np.int32
    assert boxes.tolist() == [list(box)]


def test_boxes_against_a_slow_loop() -> None:
    rng = np.random.default_rng(1)
    lam = rng.random(5000).astype(np.float32)
    cy, cx = rng.integers(0, H, 5000), rng.integers(0, W, 5000)
    expected = [slow_box(*case) for case in zip(lam.tolist(), cy.tolist(), cx.tolist(), strict=True)]
    np.testing.assert_array_equal(cut_boxes(lam, cy, cx, H, W), expected)


def test_centres_are_uniform_and_boxes_belong_to_their_lam() -> None:
    mix = drawn(MixSettings(scope="sample"), count=200_000)
    half_y, half_x = (np.ceil(size * np.sqrt(1 - mix.lam_mix.astype(float))) // 2 for size in (H, W))
    y0, x0, y1, x1 = mix.cut_boxes.T
    # Small boxes show their centre: they cannot be clipped on both sides.
    small = (half_y >= 1) & (half_x >= 1) & (half_y < H // 2) & (half_x < W // 2)
    cy = np.where(y0 > 0, y0 + half_y, y1 - half_y)[small]
    cx = np.where(x0 > 0, x0 + half_x, x1 - half_x)[small]
    counts = np.histogram2d(cy, cx, bins=(H, W), range=[[0, H], [0, W]])[0]
    assert counts.sum() == small.sum() > 100_000
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    lam = mix.lam_mix[small].tolist()
    expected = [slow_box(*case) for case in zip(lam, cy.tolist(), cx.tolist(), strict=True)]
    np.testing.assert_array_equal(mix.cut_boxes[small], expected)


def test_cut_label() -> None:
    by_lam, by_area = (drawn(MixSettings(scope="sample", cut_label=label)) for label in ("lam", "area"))
    np.testing.assert_array_equal(by_lam.cut_boxes, by_area.cut_boxes)
    np.testing.assert_array_equal(by_lam.lam_mix, by_area.lam_mix)
    np.testing.assert_array_equal(by_lam.lam_cut, by_lam.lam_mix)
    left = []
    for y0, x0, y1, x1 in by_area.cut_boxes.tolist():
        image = np.ones((H, W))
        image[y0:y1, x0:x1] = 0
        left.append(image.mean())
    np.testing.assert_allclose(by_area.lam_cut, left, atol=1e-6)
    assert (by_area.lam_cut >= by_area.lam_mix - 0.2).all()


def test_one_lam_and_box_a_global_batch() -> None:
    mix = drawn(MixSettings(beta=0.5), count=80, global_batch=8)
    values = np.column_stack([mix.lam_mix, mix.lam_cut, mix.cut_boxes]).reshape(10, 8, 6)
    assert (values == values[:, :1]).all()
    assert len(np.unique(values[:, 0, 0])) == 10


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_same_on_any_number_of_ranks(scope: str, world_size: int) -> None:
    settings, batch, steps = MixSettings(beta=0.5, scope=scope, cut_label="area"), 12, 5
    whole = drawn(settings, count=steps * batch, global_batch=batch)
    places = np.arange(steps * batch).reshape(steps, world_size, batch // world_size)
    for rank in range(world_size):
        mine = places[:, rank].ravel()
        part = draw_mixing(Draw(6, 2, mine), settings, height=H, width=W, global_batch=batch)
        for name in ("lam_mix", "lam_cut", "cut_boxes"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[mine])


def test_one_lam_a_sample() -> None:
    lam = drawn(MixSettings(scope="sample"), count=1000).lam_mix
    assert len(np.unique(lam)) == 1000
    assert not np.isin(drawn(MixSettings(), count=1000, global_batch=1).lam_mix, lam).any()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beta": 0.0}, "mix.beta is 0.0: it must be a finite number above 0"),
        ({"beta": float("inf")}, "mix.beta is inf"),
        ({"scope": "step"}, "mix.scope is 'step': it must be batch or sample"),
        ({"cut_label": "true"}, "mix.cut_label is 'true': it must be lam or area"),
    ],
)
def test_impossible_settings(setting: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixSettings(**setting)
