"""How fast the doctor finds the disk under a beton and the decoders of this machine, each in a few seconds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from benchmarks.measurement import CROP_FLIP
from benchmarks.our_feeds import open_views
from benchmarks.page_cache import drop_from_page_cache
from benchmarks.staged_feeds import Staged, open_staged_views
from pipelines.beton.format import RAW_MODE
from pipelines.beton.network_files import PreadFile
from pipelines.beton.reader import BetonFile
from pipelines.user_error import UserError

BATCH = 32
"""Pairs; small, so that a slow machine finishes some in a second."""
BATCH_ON_A_GPU = 128
READERS = 16
"""Images that are asked for at once; training asks for whole batches ahead."""


@dataclass(frozen=True)
class DiskRate:
    """Images in random order, from a file that had been dropped from the page cache."""

    bytes_per_second: float
    images_per_second: float
    kept: float
    """Share of the file that the machine would not drop; near 1 the figure is that of memory."""


def disk_rate(beton: BetonFile, seconds: float) -> DiskRate:
    """Read each image at most once, in random order, for `seconds`."""
    kept = drop_from_page_cache(beton.path)
    file = PreadFile(beton.path)
    order = np.random.default_rng(0).permutation(beton.num_images)
    places = list(zip(beton.offsets[order].tolist(), beton.sizes[order].tolist(), strict=True))
    images = read = 0
    with ThreadPoolExecutor(READERS) as pool:
        start = time.perf_counter()
        while images < len(places) and time.perf_counter() - start < seconds:
            part = places[images : images + 4 * READERS]
            read += sum(len(data) for data in pool.map(lambda place: file.read(*place), part))
            images += len(part)
        elapsed = time.perf_counter() - start
    return DiskRate(read / elapsed, images / elapsed, kept)


def decode_rate(beton: BetonFile, threads: int, seconds: float) -> float:
    """Source images a second that the CPU decodes, cuts twice and resizes to 224 x 224."""
    if (beton.modes == RAW_MODE).any():
        raise UserError(f"{beton.path}: holds raw images, which nobody decodes")
    with closing(open_views(beton, threads, BATCH, CROP_FLIP)) as feed:
        return 2 * feed.run(seconds).pairs_per_second


def dali_rate(beton: BetonFile, threads: int, seconds: float) -> float:
    """The same that DALI decodes on the first GPU, with `threads` beside it, in batches as training has them."""
    with closing(open_staged_views(beton, threads, BATCH_ON_A_GPU, Staged(decode="dali-gpu"))) as feed:
        return 2 * feed.run_from_idle(seconds).pairs_per_second
