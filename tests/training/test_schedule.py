"""α and the learning-rate schedules against literal values."""

from __future__ import annotations

import pytest

from pipelines.user_error import UserError
from training.schedule import SCHEDULES, alpha, learning_rate


def test_alpha_falls_with_the_square_of_the_epoch() -> None:
    assert [alpha(e, 5, cumulative=True) for e in range(5)] == pytest.approx([1, 0.96, 0.84, 0.64, 0.36])
    assert alpha(0, 135, cumulative=True) == 1.0
    assert alpha(100, 200, cumulative=True) == 0.75


def test_alpha_is_one_without_a_rebalanced_loss() -> None:
    assert [alpha(e, 5, cumulative=False) for e in range(5)] == [1.0] * 5


def test_cosine() -> None:
    rates = [learning_rate("cosine", 0.01, e, 4) for e in range(4)]
    assert rates == pytest.approx([0.01, 0.008535534, 0.005, 0.001464466])


def test_warmup_cosine_cvpr_on_imagenet_lt() -> None:
    rates = [learning_rate("warmup-cosine-cvpr", 0.1, e, 135) for e in range(135)]
    assert rates[:10] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1])
    # 126 steps of the cosine: epoch 10 is step 1, epoch 72 step 63 (half way), epoch 134 step 125.
    assert rates[10] == pytest.approx(0.09998446, abs=1e-8)
    assert rates[72] == pytest.approx(0.05)
    assert rates[134] == pytest.approx(1.554e-5, rel=1e-3)
    assert max(rates) == rates[9]


def test_warmup_cosine_head_on_imagenet_lt() -> None:
    rates = [learning_rate("warmup-cosine-head", 0.1, e, 135) for e in range(135)]
    # Full rate first; the warm-up comes after the epoch it is meant for, and runs one step too far.
    warmup = [0.1, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10, 0.11]
    assert rates[:12] == pytest.approx(warmup)
    assert rates[12] == pytest.approx(0.0999378, abs=1e-7)
    assert rates[73] == pytest.approx(0.05)
    assert rates[134] == pytest.approx(6.217e-5, rel=1e-3)


def test_a_run_that_ends_within_the_warm_up_is_refused() -> None:
    for schedule in ("warmup-cosine-cvpr", "warmup-cosine-head"):
        with pytest.raises(UserError, match="10 epochs end within the warm-up of 10 epochs"):
            learning_rate(schedule, 0.1, 0, 10)
        assert learning_rate(schedule, 0.1, 10, 11) > 0
    assert learning_rate("cosine", 0.1, 0, 1) == 0.1


def test_an_unknown_schedule_is_refused() -> None:
    assert list(SCHEDULES) == ["cosine", "warmup-cosine-cvpr", "warmup-cosine-head"]
    with pytest.raises(UserError, match="schedule 'step' is not known; choose one of cosine, warmup-cos"):
        learning_rate("step", 0.1, 0, 10)
