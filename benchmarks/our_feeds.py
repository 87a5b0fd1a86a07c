"""Our own loaders as feeds: the views alone, or the mixed batches."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.feed import Feed
from benchmarks.measurement import OFFICIAL
from pipelines.batch_memory import BatchMemory
from pipelines.beton.reader import BetonFile
from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.images_cpu import CpuImages
from pipelines.rank_slice import RankSlice
from pipelines.run_ahead import Pending, run_ahead
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader
from pipelines.view_sources import open_views as open_views_of

PREFETCH = 2
WITHOUT_END = 1 << 40
"""Epochs: more steps than any benchmark takes."""
Q = 1.0
"""Of the reversed stream: class-balanced, so that it does draw other images than the uniform one."""


def paired_loader(
    beton: BetonFile, pool: ThreadPool, batch: int, augmentation: str, size: int = 224
) -> PairedLoader:
    """Return the loader of a training run, with the recipe of `augmentation`."""
    settings = LoaderSettings(
        view=ViewSettings(size=size, augment="jitter-gray-blur" if augmentation == OFFICIAL else "none"),
        seed=0,
        epochs=WITHOUT_END,
        global_batch=batch,
        prefetch=PREFETCH,
        device=torch.device("cpu"),
    )
    images = CpuImages(open_views_of(beton, settings.view), settings.view, pool)
    return PairedLoader(beton, settings, RankSlice(0, 1), images, q=Q, mix=MixSettings())


def open_views(beton: BetonFile, threads: int, batch: int, augmentation: str) -> Feed:
    """Feed the uint8 views of both streams, (2, 2, N, 224, 224, 3) by stream and view, not mixed."""
    pool = ThreadPool(threads)
    loader = paired_loader(beton, pool, batch, augmentation)
    memory = BatchMemory()
    batches = run_ahead(lambda step: start_views(loader, memory, step), count(), PREFETCH)
    return _feed(batches, batch, pool)


def open_mixed(beton: BetonFile, threads: int, batch: int, augmentation: str) -> Feed:
    """Feed the batches of training: mixed, normalised."""
    pool = ThreadPool(threads)
    return _feed(iter(paired_loader(beton, pool, batch, augmentation).batches()), batch, pool)


def start_views(loader: PairedLoader, memory: BatchMemory, step: int) -> Pending[NDArray[np.uint8]]:
    """Do what the loader does for a step, up to the views: the same draws, slices and threads."""
    how_a, how_b, _ = loader.draw_step(step)
    assert isinstance(loader.images, CpuImages)
    source, pool = loader.images.source, loader.images.pool
    size, n = loader.settings.view.size, loader.local_batch
    out = memory.take((2, 2, n, size, size, 3), np.uint8)

    def fill(how: ViewDraws, rows: slice, part: NDArray[np.uint8]) -> None:
        source.training_views(how, rows, part)

    each = source.images_per_task
    tasks = [
        pool.submit(fill, how, slice(start, min(start + each, n)), part[:, start : start + each])
        for start in range(0, n, each)
        for how, part in zip((how_a, how_b), out, strict=True)
    ]
    return Pending(tasks, lambda: out)


def _feed(batches: Iterator[object], pairs: int, pool: ThreadPool) -> Feed:
    """A feed from `run_ahead`, whose generator leaves nothing behind once it is closed."""
    assert isinstance(batches, Generator)

    def close() -> None:
        batches.close()
        pool.close()

    return Feed(batches=batches, pairs=pairs, ahead=PREFETCH, close=close)
