"""What each peer hands over, and that the streams are what they are said to be."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from benchmarks.feed import Feed
from benchmarks.isolated import FeedError
from benchmarks.measurement import CROP_FLIP, OFFICIAL, row_of
from benchmarks.our_feeds import paired_loader
from benchmarks.peer import LONG, uniform_order, weighted_order
from benchmarks.peer_dali import open_dali
from benchmarks.peer_sweep import METRIC, Opened, sweep
from benchmarks.peer_torch import (
    mixed,
    open_official,
    open_official_full,
    open_official_uint8,
    open_torchvision_v2,
)
from benchmarks.peers import (
    GOALS,
    PEERS,
    chosen_peers,
    goals,
    in_turn,
    open_ours,
    open_ours_full,
)
from benchmarks.photographs import Photographs
from benchmarks.progress import Progress
from pipelines.thread_pool import ThreadPool
from pipelines.user_error import UserError

ROOT = Path(__file__).resolve().parents[2]
N = 3
"""Pairs of a batch in these tests."""


def views_of(batch: object) -> list[np.ndarray]:
    """The (N, ...) views of a batch, whatever they are wrapped in."""
    if isinstance(batch, np.ndarray):
        return [batch] if batch.ndim == 4 else [view for part in batch for view in views_of(part)]
    if isinstance(batch, torch.Tensor):
        return [batch.numpy()]
    if isinstance(batch, list | tuple):
        return [view for part in batch for view in views_of(part)]
    return [np.asarray(batch.as_array())]


@pytest.mark.parametrize(
    ("opener", "shape", "dtype"),
    [
        (open_official, (N, 3, 224, 224), np.float32),
        (open_official_uint8, (N, 3, 224, 224), np.uint8),
        (open_torchvision_v2, (N, 3, 224, 224), np.uint8),
        (open_dali, (N, 224, 224, 3), np.uint8),
        (open_ours, (N, 224, 224, 3), np.uint8),
    ],
)
def test_a_batch_holds_four_different_views_of_each_pair(
    few: Photographs, opener: Callable[..., Feed], shape: tuple[int, ...], dtype: type
) -> None:
    feed = opener(few, 1, N)
    try:
        batches = [[view.copy() for view in views_of(next(feed.batches))] for _ in range(2)]
    finally:
        feed.close()
    for views in batches:
        assert [(view.shape, view.dtype) for view in views] == [(shape, dtype)] * 4
    images = [image for views in batches for view in views for image in view]
    assert all(image.std() > 0.5 / 255 for image in images)
    assert len({image.tobytes() for image in images}) == len(images)


CHECK_FFCV = """
import sys
from pathlib import Path
from benchmarks.peer_ffcv import open_ffcv
from benchmarks.photographs import photographs_in

feed = open_ffcv(photographs_in(Path(sys.argv[1])), 1, 3)
(a1, a2), (b1, b2) = next(feed.batches)
views = [a1, a2, b1, b2]
assert all(view.shape == (3, 224, 224, 3) and view.dtype == "uint8" for view in views)
assert len({image.tobytes() for view in views for image in view}) == 12
feed.close()
print("four views")
"""


def test_ffcv_gives_four_views_too(few: Photographs) -> None:
    command = [sys.executable, "-c", CHECK_FFCV, str(few.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "four views", done.stderr


@pytest.mark.parametrize("opener", [open_official_full, open_ours_full])
def test_a_full_batch_is_mixed_and_normalised(few: Photographs, opener: Callable[..., Feed]) -> None:
    feed = opener(few, 1, N)
    batch = next(feed.batches)
    images = batch if isinstance(batch, torch.Tensor) else batch.images
    assert images.shape == (2 * N, 3, 224, 224) and images.dtype == torch.float32
    assert -2.2 < images.min() < -0.5 and 0.5 < images.max() < 2.7
    feed.close()


def test_the_official_mix_is_mixup_then_cutmix() -> None:
    a = [torch.zeros(2, 3, 50, 50), torch.zeros(2, 3, 50, 50)]
    b = [torch.ones(2, 3, 50, 50), torch.ones(2, 3, 50, 50)]
    torch.manual_seed(1)
    mix, cut = mixed(a, b).chunk(2)
    weights = mix.unique()
    assert len(weights) == 1 and 0 < weights < 1
    assert set(cut.unique().tolist()) <= {0.0, 1.0}
    assert cut.mean() <= weights + 0.05  # the box is about 1 - λ of the image, or less at a border


def test_ours_draws_the_full_recipe_only_where_it_is_asked_for(few: Photographs) -> None:
    with ThreadPool(1) as pool:
        assert not paired_loader(few.beton, pool, N, CROP_FLIP).draw_step(0)[0].colours
        assert len(paired_loader(few.beton, pool, N, OFFICIAL).draw_step(0)[0].colours) == 2


def test_the_uniform_order_shows_every_image_equally_often() -> None:
    order = uniform_order(7, np.random.default_rng(0))
    assert len(order) == LONG
    assert all(sorted(order[start : start + 7]) == list(range(7)) for start in range(0, 700, 7))
    assert order[:7].tolist() != order[7:14].tolist()


def test_the_weighted_order_shows_every_class_equally_often() -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2])
    drawn = labels[weighted_order(labels, np.random.default_rng(0))[:30_000]]
    assert chisquare([Counter(drawn.tolist())[c] for c in range(3)]).pvalue > 1e-3


def test_workers_are_shared_among_the_loaders_of_a_peer() -> None:
    by_name = {peer.name: peer for peer in PEERS}
    assert by_name["official-style"].worker_choices(2) == [1, 2]
    assert by_name["official-style"].worker_choices(16) == [8, 12, 16]
    assert by_name["ours-cpu"].worker_choices(2) == [2, 3, 4]
    assert by_name["ours-cpu"].worker_choices(1) == [1, 2]


def test_a_gpu_s_peers_run_on_a_gpu_only() -> None:
    names = {peer.name for peer in chosen_peers(None)}
    assert {"ours-cpu", "ours-dali-cpu"} <= names
    assert ({"ours-dali-gpu", "ours-split"} <= names) == torch.cuda.is_available()


def test_peers_are_chosen_by_name() -> None:
    assert [peer.name for peer in chosen_peers(["ours-cpu", "stock-dali", "ours-cpu"])] == [
        "ours-cpu",
        "stock-dali",
    ]
    with pytest.raises(UserError, match="--peers dali: there is no such peer; choose from official-style"):
        chosen_peers(["dali"])
    assert {name for goal in GOALS for name in goal[:2]} <= {peer.name for peer in PEERS}


def test_goals_are_said_to_be_reached_or_not_or_not_measured() -> None:
    def row(name: str, value: float) -> object:
        return row_of([value], name=name, metric=METRIC, unit="pairs/s", augmentation=CROP_FLIP)

    official, ffcv, full = goals([row("ours-cpu", 700), row("official-style", 200), row("stock-ffcv", 300)])
    assert official == "ours-cpu is 3.50 times official-style: goal 3.5 times reached."
    assert ffcv == "ours-cpu is 2.33 times stock-ffcv: goal 3 times NOT reached."
    assert full == "ours-cpu/full over official-style/full: not measured (goal 5 times)."


def test_a_peer_that_fails_among_the_runs_is_left_out_and_named() -> None:
    class Failing:
        def __init__(self, answers: list[float]) -> None:
            self.answers = answers

        def pairs_per_second(self, seconds: float) -> float:
            if not self.answers:
                raise FeedError("its process ended")
            return self.answers.pop(0)

    ours, theirs = chosen_peers(["ours-cpu", "stock-dali"])
    failures: list[str] = []
    opened = [Opened(ours, 2, Failing([5, 1, 4, 2, 3])), Opened(theirs, 2, Failing([9, 9]))]
    [row] = in_turn(opened, 0.1, failures, Progress())
    assert (row.name, row.median, row.min, row.max, row.runs) == ("ours-cpu", 3, 1, 5, 5)
    assert failures == ["stock-dali: not measured (its process ended)."]


def test_a_sweep_without_time_tries_a_worker_a_core_of_each_peer(few: Photographs) -> None:
    progress = Progress(minutes=1e-9)
    with ExitStack() as stack:
        swept = sweep(stack, chosen_peers(["ours-cpu"]), few.folder, 1, 0.01, progress)
        best = swept.best["ours-cpu"]
        assert best.workers == 1
        assert swept.left_out == [("ours-cpu", 2)]
        assert [row.name for row in progress.rows] == ["ours-cpu/workers 1"]
        failures: list[str] = []
        [row] = in_turn([best], 0.01, failures, progress)
    assert (row.runs, failures) == (1, [])


def test_the_best_of_a_sweep_stays_open_and_a_peer_that_cannot_start_is_named(few: Photographs) -> None:
    ours = chosen_peers(["ours-cpu"])[0]
    broken = replace(ours, name="broken", open=divmod)  # which takes two arguments
    with ExitStack() as stack:
        swept = sweep(stack, [broken, ours], few.folder, 1, 0.05, Progress())
        assert list(swept.best) == ["ours-cpu"]
        assert swept.best["ours-cpu"].feed.pairs_per_second(0.01) > 0
        assert swept.left_out == []
    [failure] = swept.failures
    assert failure.startswith("broken with 1 workers: not measured (TypeError: ")
