"""Evaluate a model on a set: counts per class and head, summed over ranks, each image counted once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.batch import EvalBatch
from training.accuracy import add_counts
from training.model import InferenceHead, LongTailModel
from training.process_group import ProcessGroup


@dataclass(frozen=True)
class EvalCounts:
    """What an evaluation counted, on the device and already summed over ranks."""

    correct: dict[InferenceHead, Tensor]
    """(C,) int64 correctly classified images of each class, by head."""
    total: Tensor
    """(C,) int64 images of each class."""
    projection_spread: float
    """Mean over dimensions of the standard deviation of the L2-normalised projection, times the square root of the
    dimension: 1 for directions spread over the sphere, 0 where all images collapse on one (Chen and He, SimSiam,
    CVPR 2021, figure 2)."""


@torch.no_grad()
def evaluate(
    model: LongTailModel,
    batches: Iterable[EvalBatch],
    heads: tuple[InferenceHead, ...],
    num_classes: int,
    group: ProcessGroup,
    autocast: torch.autocast,
) -> EvalCounts:
    """Run the model in evaluation mode over this rank's batches and sum the counts over ranks."""
    was_training = model.training
    model.eval()
    # for each head: correct images and all images, by class
    counts = {head: torch.zeros(2, num_classes, dtype=torch.int64, device=group.device) for head in heads}
    # count, sum and sum of squares of each dimension of the normalised projection
    moments = torch.zeros(3, model.projection.out_features, dtype=torch.float64, device=group.device)
    for batch in batches:
        with autocast:
            outputs = model(batch.images)
        for head in heads:
            correct, total = counts[head]  # rows of it, filled in place
            add_counts(correct, total, outputs.logits(head), batch.labels, batch.counted)
        directions = torch.nn.functional.normalize(outputs.projection).double() * batch.counted[:, None]
        number = batch.counted.sum().expand(directions.shape[1])
        moments += torch.stack([number, directions.sum(0), directions.square().sum(0)])
    model.train(was_training)
    for tensor in (*counts.values(), moments):
        group.sum(tensor)
    return EvalCounts({head: counts[head][0] for head in heads}, counts[heads[0]][1], _spread(moments))


def _spread(moments: Tensor) -> float:
    count, first, second = moments
    variance = (second / count - (first / count).square()).clamp_min(0)
    return float(variance.sqrt().mean() * len(first) ** 0.5)
