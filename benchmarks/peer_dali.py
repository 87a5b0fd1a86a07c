"""`stock-dali`: DALI as its documentation shows it, with its own file reader, on its CPU operators.

An image is decoded once and cropped twice by `random_resized_crop`. A file reader cannot draw with replacement, so
the second one is given a list in which files repeat.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.feed import Feed
from benchmarks.peer import SIZE, weighted_order
from benchmarks.photographs import Photographs

PREFETCH = 2
DRAWS = 1 << 14
"""Length of the weighted list; it starts again after that."""


def open_dali(photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed two uint8 views (N, S, S, 3) of each stream; `workers` threads."""
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    files = [str(path) for path in photographs.files]
    drawn = weighted_order(photographs.labels, np.random.default_rng(0))[:DRAWS]

    pipeline = Pipeline(batch, workers, device_id=None, prefetch_queue_depth=PREFETCH, seed=0)
    with pipeline:
        views = []
        for stream in (files, [files[i] for i in drawn]):
            encoded, _ = fn.readers.file(files=stream, random_shuffle=True, initial_fill=512)
            image = fn.decoders.image(encoded)
            for _ in range(2):
                view = fn.random_resized_crop(image, size=SIZE)
                views.append(fn.flip(view, horizontal=fn.random.coin_flip()))
        pipeline.set_outputs(*views)
    pipeline.build()

    def batches() -> Iterator[object]:
        while True:
            yield pipeline.run()

    return Feed(batches=batches(), pairs=batch, ahead=PREFETCH, close=lambda: None)
