"""Our other backends as feeds: views by DALI on a CPU or a GPU, or by CPU threads and DALI together."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch

from benchmarks.feed import Feed
from benchmarks.our_feeds import PREFETCH, WITHOUT_END, Q
from pipelines.beton.reader import BetonFile
from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.images_staged import StagedImages
from pipelines.open_images import open_image_works, parse_decode
from pipelines.rank_slice import RankSlice
from pipelines.run_ahead import Pending, run_ahead
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader
from pipelines.views import Views

SPLIT = "split:0.5"
"""Half of the images by CPU threads, half by DALI; `decode` finds the share that suits a machine."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """How views are made; fields as in a configuration."""

    decode: str
    """dali-cpu, dali-gpu or split:SHARE."""
    dali: DaliSettings = field(default_factory=DaliSettings)
    prefetch: int = PREFETCH

    @property
    def device(self) -> torch.device:
        """Where the views end."""
        return torch.device("cpu" if self.decode == "dali-cpu" else "cuda")


def open_staged_views(beton: BetonFile, threads: int, batch: int, staged: Staged, size: int = 224) -> Feed:
    """Feed the two uint8 views (2 N, S, S, 3) of both streams, not mixed; on a GPU they are there when given."""
    view, device, pool = ViewSettings(size=size), staged.device, ThreadPool(threads)
    works = open_image_works(
        view,
        pool,
        decode=parse_decode(staged.decode),
        dali=staged.dali,
        device=device,
        dtype=torch.bfloat16,
        batch=DaliShape(max_batch=2 * batch, views=2, size=size, depth=staged.prefetch + 1),
    )
    images = works.open(beton)
    assert isinstance(images, StagedImages)
    settings = LoaderSettings(
        view=view, seed=0, epochs=WITHOUT_END, global_batch=batch, prefetch=staged.prefetch, device=device
    )
    loader = PairedLoader(beton, settings, RankSlice(0, 1), images, q=Q, mix=MixSettings())

    def finish(views: Views) -> int:
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        images.feed.release(views)
        return len(views[0])

    def start(step: int) -> Pending[int]:
        how_a, how_b, _ = loader.draw_step(step)
        return images.feed.training(one_after_the_other(how_a, how_b)).then(finish)

    batches = run_ahead(start, count(), staged.prefetch)
    assert isinstance(batches, Generator)

    def close() -> None:
        batches.close()
        pool.close()

    return Feed(batches=batches, pairs=batch, ahead=staged.prefetch, close=close)


def one_after_the_other(a: ViewDraws, b: ViewDraws) -> ViewDraws:
    """The draws of stream a, then those of stream b, without colours."""
    return ViewDraws(
        indices=np.concatenate([a.indices, b.indices]),
        crops=np.concatenate([a.crops, b.crops]),
        flips=np.concatenate([a.flips, b.flips]),
        colours=(),
    )
