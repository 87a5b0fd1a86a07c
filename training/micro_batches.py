"""Gradient accumulation: the local batch in equal parts, one after the other."""

from __future__ import annotations

import torch

from pipelines.batch import Batch


def split_pairs(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch of N pairs into `parts` batches of N / parts pairs, each with all V images of its pairs.

    The images stay channels-last. Every loss is a mean over pairs, so the mean over the parts is that of the batch.
    """
    views, pairs = batch.lam.shape
    assert pairs % parts == 0, f"{pairs} pairs do not make {parts} equal parts"
    size = pairs // parts
    return [
        Batch(
            images=torch.cat([view[start : start + size] for view in batch.images.chunk(views)]),
            label_a=batch.label_a[start : start + size],
            label_b=batch.label_b[start : start + size],
            lam=batch.lam[:, start : start + size],
        )
        for start in range(0, pairs, size)
    ]
