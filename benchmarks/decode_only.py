"""The ceiling of a loader: libjpeg-turbo, every source once, whole, no crop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.measurement import rate
from pipelines.beton.reader import BetonFile
from pipelines.thread_pool import ThreadPool


@contextmanager
def decoding(beton: BetonFile, threads: int, seconds: float) -> Iterator[Callable[[], float]]:
    """Give a run that decodes sources for `seconds` on so many threads: images a second."""
    with ThreadPool(threads) as pool:

        def decode(start: int, stop: int) -> None:
            for i in range(start, stop):
                decode_jpeg(torch.from_numpy(np.array(beton.image_bytes(i))), ImageReadMode.RGB)

        def every_source() -> int:
            pool.map_slices(decode, beton.num_images, 4)
            return beton.num_images

        yield lambda: rate(every_source, seconds)
