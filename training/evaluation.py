"""Evaluate a model on a set: counts per class and head, summed over ranks, each image counted once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.batch import EvalBatch
from training.accuracy import TOTAL_ROW, accuracy_from_counts, add_counts
from training.calibration import add_confidences, calibration_error, new_bins
from training.model import InferenceHead, LongTailModel, Outputs
from training.process_group import ProcessGroup
from training.shifted_priors import shifted_accuracies


@dataclass(frozen=True)
class HeadCounts:
    """What was counted of one head, on the device and already summed over ranks."""

    classes: Tensor
    """(3, C) int64, see `add_counts`."""
    bins: Tensor
    """(15, 3) float64, see `add_confidences`."""


@dataclass(frozen=True)
class EvalCounts:
    """What an evaluation counted."""

    heads: dict[InferenceHead, HeadCounts]
    projection_spread: float
    """Mean over dimensions of the standard deviation of the L2-normalised projection, times the square root of the
    dimension: 1 for directions spread over the sphere, 0 where all images collapse on one (Chen and He, SimSiam,
    CVPR 2021, figure 2)."""


class BatchReader(Protocol):
    """Something else that wants to see every batch of an evaluation, as a file of outputs does."""

    def read(self, features: Tensor, outputs: Outputs, batch: EvalBatch) -> None:
        """(N, D) features and outputs of this rank's batch; all ranks come here equally often."""


@torch.no_grad()
def evaluate(
    model: LongTailModel,
    batches: Iterable[EvalBatch],
    heads: tuple[InferenceHead, ...],
    group: ProcessGroup,
    autocast: torch.autocast,
    readers: Sequence[BatchReader] = (),
) -> EvalCounts:
    """Run the model in evaluation mode over this rank's batches and sum the counts over ranks."""
    was_training = model.training
    model.eval()
    classes = model.conventional_head.out_features
    counts = {
        head: HeadCounts(
            torch.zeros(3, classes, dtype=torch.int64, device=group.device), new_bins(group.device)
        )
        for head in heads
    }
    # count, sum and sum of squares of each dimension of the normalised projection
    moments = torch.zeros(3, model.projection.out_features, dtype=torch.float64, device=group.device)
    for batch in batches:
        with autocast:
            features = model.features(batch.images)
        outputs = model.layers(features)
        for head, sums in counts.items():
            add_counts(sums.classes, outputs.logits(head), batch.labels, batch.counted)
            add_confidences(sums.bins, outputs.logits(head), batch.labels, batch.counted)
        directions = torch.nn.functional.normalize(outputs.projection).double() * batch.counted[:, None]
        number = batch.counted.sum().expand(directions.shape[1])
        moments += torch.stack([number, directions.sum(0), directions.square().sum(0)])
        for reader in readers:
            reader.read(features, outputs, batch)
    model.train(was_training)
    for tensor in (*(t for sums in counts.values() for t in (sums.classes, sums.bins)), moments):
        group.sum(tensor)
    return EvalCounts(counts, _spread(moments))


def head_figures(counts: HeadCounts, train_counts: NDArray[np.int64]) -> dict[str, Any]:
    """Everything that is reported of one head, as plain values: the fields of `Accuracy`, and

    `calibration_error` (see `calibration_error`) and `shifted` (see `shifted_accuracies`). `train_counts` (C,)
    are the training images of each class. Waits for the device.
    """
    accuracy = accuracy_from_counts(counts.classes, train_counts)
    tested = counts.classes[TOTAL_ROW].cpu().numpy()
    return {
        **asdict(accuracy),
        "calibration_error": calibration_error(counts.bins),
        "shifted": shifted_accuracies(accuracy.per_class, tested, train_counts),
    }


def _spread(moments: Tensor) -> float:
    count, first, second = moments
    variance = (second / count - (first / count).square()).clamp_min(0)
    return float(variance.sqrt().mean() * len(first) ** 0.5)
