from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import augment_reference, decode_reference, mix_reference
from pipelines.batch import Batch
from pipelines.beton.reader import BetonFile
from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.images_cpu import CpuImages
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader, PlainLoader
from pipelines.user_error import UserError
from pipelines.view_sources import open_views

MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)
PHOTOGRAPH_VIEWS = ViewSettings(size=28, mean=MEAN, std=STD)
DIGIT_VIEWS = ViewSettings(size=32, crop="padded", pad=3, mean=MEAN, std=STD)
BY_SAMPLE = MixSettings(beta=0.7, scope="sample", cut_label="area")


def _settings(view: ViewSettings, **changes: Any) -> LoaderSettings:
    values: dict[str, Any] = {"seed": 6, "epochs": 2, "global_batch": 8, "prefetch": 2} | changes
    return LoaderSettings(view=view, device=torch.device("cpu"), **values)


def _images(beton: BetonFile, pool: ThreadPool, view: ViewSettings) -> CpuImages:
    return CpuImages(open_views(beton, view), view, pool)


def _paired(
    beton: BetonFile,
    pool: ThreadPool,
    view: ViewSettings,
    *,
    ranks: RankSlice = RankSlice(0, 1),  # noqa: B008  (frozen)
    mix: MixSettings = BY_SAMPLE,
    q: float = 1.5,
    **changes: Any,
) -> PairedLoader:
    return PairedLoader(beton, _settings(view, **changes), ranks, _images(beton, pool, view), q=q, mix=mix)


def _levels(images: torch.Tensor) -> np.ndarray:
    """(n, H, W, 3) float64, of 255, of normalised images (n, 3, H, W)."""
    return (images.permute(0, 2, 3, 1).double().numpy() * STD + MEAN) * 255


def _same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(Batch)
    )


def _check_form(batch: Batch, views: int, n: int, size: int) -> None:
    assert batch.images.shape == (views * n, 3, size, size) and batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.label_a.shape == batch.label_b.shape == (n,)
    assert batch.label_a.dtype == batch.label_b.dtype == torch.int64
    assert batch.lam.shape == (views, n) and batch.lam.dtype == torch.float32


def _reference_mix(
    loader: PairedLoader, step: int, slow_views: Callable[[ViewDraws], np.ndarray]
) -> torch.Tensor:
    how_a, how_b, mixing = loader.draw_step(step)
    return mix_reference.mix(
        torch.from_numpy(slow_views(how_a)),
        torch.from_numpy(slow_views(how_b)),
        torch.from_numpy(mixing.lam_mix),
        torch.from_numpy(mixing.cut_boxes),
        MEAN,
        STD,
    )


@pytest.mark.parametrize(("augment", "levels"), [("none", 1), ("jitter-gray-blur", 5)])
def test_photographs_are_what_the_references_make(
    photographs: BetonFile,
    photograph_files: list[Path],
    pool: ThreadPool,
    augment: str,
    levels: int,
) -> None:
    # A level that the resize is off grows by three factors of up to 1.4, and augment may add two.
    view = dataclasses.replace(PHOTOGRAPH_VIEWS, augment=augment)  # type: ignore[arg-type]
    loader = _paired(photographs, pool, view, global_batch=7)

    def slow_views(how: ViewDraws) -> np.ndarray:
        samples = [np.fromfile(photograph_files[i], np.uint8) for i in how.indices]
        views = decode_reference.decode(samples, how.crops.astype(np.float64), how.flips, 28)
        if augment == "none":
            return views
        return np.stack([augment_reference.augment(views[v], how.colours[v]) for v in range(2)])

    for step, batch in enumerate(loader.batches()):
        _check_form(batch, 2, 7, 28)
        difference = np.abs(_levels(batch.images) - _levels(_reference_mix(loader, step, slow_views)))
        assert difference.max() <= levels + 1e-3
        assert difference.mean() < 0.2  # Pillow rounds between its two passes


def test_digits_are_exactly_what_the_reference_makes(digits: BetonFile, pool: ThreadPool) -> None:
    loader = _paired(digits, pool, DIGIT_VIEWS, global_batch=150)
    pixels = np.stack([digits.image_bytes(i) for i in range(digits.num_images)])
    padded = np.pad(pixels, ((0, 0), (3, 3), (3, 3), (0, 0)))

    def slow_views(how: ViewDraws) -> np.ndarray:
        views = np.empty((2, len(how.indices), 32, 32, 3), np.uint8)
        for i, index in enumerate(how.indices):
            for v in range(2):
                dy, dx = how.crops[i, v]
                crop = padded[index, dy : dy + 32, dx : dx + 32]
                views[v, i] = crop[:, ::-1] if how.flips[i, v] else crop
        return views

    for step, batch in enumerate(loader.batches()):
        _check_form(batch, 2, 150, 32)
        expected = _reference_mix(loader, step, slow_views)
        np.testing.assert_allclose(_levels(batch.images), _levels(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("cut_label", ["lam", "area"])
def test_labels_and_weights(
    photographs: BetonFile, photograph_labels: np.ndarray, pool: ThreadPool, scope: str, cut_label: str
) -> None:
    mix = MixSettings(scope=scope, cut_label=cut_label)  # type: ignore[arg-type]
    loader = _paired(photographs, pool, PHOTOGRAPH_VIEWS, mix=mix)
    for step, batch in enumerate(loader.batches()):
        how_a, how_b, mixing = loader.draw_step(step)
        np.testing.assert_array_equal(batch.label_a, photograph_labels[how_a.indices])
        np.testing.assert_array_equal(batch.label_b, photograph_labels[how_b.indices])
        y0, x0, y1, x1 = mixing.cut_boxes.T
        area = 1 - (y1 - y0) * (x1 - x0) / 28**2
        np.testing.assert_array_equal(batch.lam[0], mixing.lam_mix)
        np.testing.assert_allclose(batch.lam[1], area if cut_label == "area" else mixing.lam_mix, atol=1e-6)
        assert len(batch.lam[0].unique()) == (1 if scope == "batch" else 8)


def test_the_reversed_stream_follows_q_and_has_draws_of_its_own(
    photographs: BetonFile, pool: ThreadPool
) -> None:
    loader = _paired(photographs, pool, PHOTOGRAPH_VIEWS, q=80.0)
    for batch in loader.batches():
        assert (batch.label_b == 4).all()  # the class with one image
    how_a, how_b, _ = loader.draw_step(0)
    assert not np.array_equal(how_a.crops, how_b.crops)
    assert not np.array_equal(how_a.flips, how_b.flips)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("photographs", {"augment": "jitter-gray-blur"}), ("photographs", {}), ("digits", {})],
)
@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(
    request: pytest.FixtureRequest, pool: ThreadPool, name: str, changes: dict[str, Any], scope: str
) -> None:
    beton: BetonFile = request.getfixturevalue(name)
    view = DIGIT_VIEWS if name == "digits" else dataclasses.replace(PHOTOGRAPH_VIEWS, **changes)
    mix, global_batch = MixSettings(scope=scope), 140 if name == "digits" else 8  # type: ignore[arg-type]

    def batches_of(rank: int, world_size: int) -> Iterator[Batch]:
        ranks = RankSlice(rank, world_size)
        loader = _paired(beton, pool, view, ranks=ranks, mix=mix, global_batch=global_batch)
        return iter(loader.batches())

    for world_size in (2, 4):
        shares = zip(*(batches_of(rank, world_size) for rank in range(world_size)), strict=True)
        for whole, local in zip(batches_of(0, 1), shares, strict=True):
            _check_form(local[0], 2, global_batch // world_size, view.size)
            images = torch.cat([each.images.unflatten(0, (2, -1)) for each in local], dim=1)
            assert torch.equal(images.flatten(0, 1), whole.images)
            assert torch.equal(torch.cat([each.label_a for each in local]), whole.label_a)
            assert torch.equal(torch.cat([each.label_b for each in local]), whole.label_b)
            assert torch.equal(torch.cat([each.lam for each in local], dim=1), whole.lam)


def test_a_batch_that_the_ranks_cannot_share_is_refused(photographs: BetonFile, pool: ThreadPool) -> None:
    with pytest.raises(UserError, match="global batch of 8 does not divide by 3 processes"):
        _paired(photographs, pool, PHOTOGRAPH_VIEWS, ranks=RankSlice(1, 3))


def test_a_run_goes_on_with_the_batches_it_would_have_had(photographs: BetonFile, pool: ThreadPool) -> None:
    loader = _paired(photographs, pool, PHOTOGRAPH_VIEWS, epochs=3)
    batches = loader.batches()
    whole = list(batches)
    assert len(loader) == 3 and loader.total_steps == len(batches) == len(whole) == 9  # 23 images by 8
    assert not any(_same(a, b) for i, a in enumerate(whole) for b in whole[:i])
    for first in (0, 2, 3, 5, 8, 9):  # 3 begins an epoch
        fresh = _paired(photographs, pool, PHOTOGRAPH_VIEWS, epochs=3).batches(first)
        for _ in range(2):  # iterated again, it starts again
            rest = list(fresh)
            assert len(fresh) == len(rest) == 9 - first
            assert all(map(_same, rest, whole[first:]))
    ended = loader.batches(10)
    assert len(ended) == 0 and list(ended) == []


@pytest.mark.parametrize("augment", ["none", "jitter-gray-blur"])
def test_neither_threads_nor_look_ahead_change_a_batch(photographs: BetonFile, augment: str) -> None:
    view = dataclasses.replace(PHOTOGRAPH_VIEWS, augment=augment)  # type: ignore[arg-type]
    runs = []
    for threads, prefetch in ((1, 1), (3, 1), (3, 3), (2, 0)):
        with ThreadPool(threads) as pool:
            runs.append(list(_paired(photographs, pool, view, prefetch=prefetch).batches()))
    for run in runs[1:]:
        assert len(run) == len(runs[0]) == 6
        assert all(map(_same, run, runs[0]))


def test_a_step_has_its_places_of_its_own_epoch(photographs: BetonFile, pool: ThreadPool) -> None:
    loader = _paired(photographs, pool, PHOTOGRAPH_VIEWS, ranks=RankSlice(1, 2))
    for step in range(6):
        draw = loader.draw_at(step)
        assert (draw.seed, draw.epoch, draw.stream) == (6, step // 3, 0)
        assert draw.places.tolist() == [step % 3 * 8 + 4 + i for i in range(4)]


def test_another_seed_is_another_run(digits: BetonFile, pool: ThreadPool) -> None:
    runs = [next(iter(_paired(digits, pool, DIGIT_VIEWS, seed=seed).batches())) for seed in (6, 7)]
    assert not torch.equal(runs[0].images, runs[1].images)
    assert not torch.equal(runs[0].lam, runs[1].lam)


def _pixels(images: torch.Tensor) -> list[bytes]:
    return [image.tobytes() for image in np.rint(_levels(images)).astype(np.uint8)]


def test_an_epoch_shows_every_image_once_and_fills_its_last_batch(
    digits: BetonFile, pool: ThreadPool
) -> None:
    view = dataclasses.replace(DIGIT_VIEWS, pad=0, flip=0.0)  # views are the images themselves
    loader = PlainLoader(
        digits, _settings(view, global_batch=70), RankSlice(0, 1), _images(digits, pool, view)
    )
    n, batches = digits.num_images, list(loader.batches())
    assert n % 70 != 0 and len(loader) == -(-n // 70) and len(batches) == 2 * len(loader)
    expected = sorted((digits.image_bytes(i).tobytes(), int(digits.labels[i])) for i in range(n))
    epochs = []
    for epoch in (batches[: len(loader)], batches[len(loader) :]):
        for batch in epoch:
            _check_form(batch, 1, 70, 32)
            assert (batch.lam == 1).all() and torch.equal(batch.label_a, batch.label_b)
        images = [image for batch in epoch for image in _pixels(batch.images)]
        shown = list(zip(images, torch.cat([batch.label_a for batch in epoch]).tolist(), strict=True))
        assert sorted(shown[:n]) == expected
        assert shown[n:] == shown[: len(shown) - n]
        epochs.append(shown)
    assert epochs[0] != epochs[1] and epochs[0] != expected


def test_plain_photographs_are_what_the_reference_makes(
    photographs: BetonFile, photograph_files: list[Path], pool: ThreadPool
) -> None:
    settings = _settings(PHOTOGRAPH_VIEWS, epochs=1)
    loader = PlainLoader(photographs, settings, RankSlice(1, 2), _images(photographs, pool, PHOTOGRAPH_VIEWS))
    paired = _paired(photographs, pool, PHOTOGRAPH_VIEWS, epochs=1, ranks=RankSlice(1, 2))
    for step, batch in enumerate(loader.batches()):
        _check_form(batch, 1, 4, 28)
        how, _, _ = paired.draw_step(step)  # the uniform stream's first view is that of the paired loader
        samples = [np.fromfile(photograph_files[i], np.uint8) for i in how.indices]
        boxes, flips = how.crops[:, :1].astype(np.float64), how.flips[:, :1]
        views = decode_reference.decode(samples, boxes, flips, 28)[0]
        assert np.abs(_levels(batch.images) - views).max() <= 1 + 1e-3
        np.testing.assert_array_equal(batch.label_a, photographs.labels[how.indices])


class _RecordingPool(ThreadPool):
    """Remembers its tasks."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.tasks: list[Future[Any]] = []

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append(super().submit(function, *args, **kwargs))
        return self.tasks[-1]


def test_leaving_early_leaves_nothing_running(photographs: BetonFile) -> None:
    before = set(threading.enumerate())
    pool = _RecordingPool(2)
    with_pool = set(threading.enumerate())
    loader = _paired(photographs, pool, PHOTOGRAPH_VIEWS, prefetch=3, epochs=5)
    for _ in range(100):
        for _ in loader.batches():
            break
        assert all(task.done() for task in pool.tasks)
        assert set(threading.enumerate()) <= with_pool
    assert len(with_pool - before) == 2
    assert sum(task.cancelled() for task in pool.tasks) > 100  # there was something to leave behind
    pool.close()
    assert set(threading.enumerate()) <= before


def test_a_pool_may_close_under_an_unfinished_iteration(photographs: BetonFile) -> None:
    with ThreadPool(2) as pool:
        batches = iter(_paired(photographs, pool, PHOTOGRAPH_VIEWS, prefetch=3).batches())
        next(batches)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("mixed", [False, True])
def test_a_bad_image_ends_the_run_with_its_name(
    photographs: BetonFile,
    break_off: Callable[[BetonFile, int, Path], BetonFile],
    tmp_path: Path,
    mixed: bool,
) -> None:
    beton = break_off(photographs, 20, tmp_path / "damaged.beton")
    pool = _RecordingPool(2)
    settings = _settings(PHOTOGRAPH_VIEWS, prefetch=3)
    images = _images(beton, pool, PHOTOGRAPH_VIEWS)
    if mixed:
        # q = 0.5 seldom shows the image in stream b before stream a does, which takes an epoch at most
        loader: PairedLoader | PlainLoader = PairedLoader(
            beton, settings, RankSlice(0, 1), images, q=0.5, mix=BY_SAMPLE
        )
    else:
        loader = PlainLoader(beton, settings, RankSlice(0, 1), images)
    message = (
        rf"{re.escape(str(tmp_path))}/damaged\.beton: image 20 \(00020\.jpg\) is not a readable JPEG .*"
        "convert the set again"
    )
    with pytest.raises(UserError, match=message):
        list(loader.batches())
    assert all(task.done() for task in pool.tasks)
    pool.close()
