"""What a batch is: the one value that passes from the data path to the trainer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import torch

AnyBatch = TypeVar("AnyBatch", "Batch", "EvalBatch")


@dataclass(frozen=True)
class Batch:
    """The local batch of one step: V mixed images of each of N pairs, on the training device.

    A pair is image i of the uniform stream (label a) with image i of the reversed stream (label b). GLMC has
    two mixed images a pair, MixUp (row 0) and CutMix (row 1); a method that mixes nothing has one, λ = 1.
    """

    images: torch.Tensor
    """(V·N, 3, H, W) float, channels-last: the N images of row 0, then the N of row 1; normalised."""
    label_a: torch.Tensor
    """(N,) int64, classes of the uniform stream."""
    label_b: torch.Tensor
    """(N,) int64, classes of the reversed stream."""
    lam: torch.Tensor
    """(V, N) float32 in [0, 1]: the weight of label a in mixed image v of pair i; label b has 1 - λ."""

    def to(self, device: torch.device) -> Batch:
        """The same on another device; the host does not wait for the copies."""
        return _to_device(self, device)


@dataclass(frozen=True)
class EvalBatch:
    """Images of an evaluation set, each of which is counted once over all ranks."""

    images: torch.Tensor
    """(N, 3, H, W) float, channels-last, normalised."""
    labels: torch.Tensor
    """(N,) int64."""
    counted: torch.Tensor
    """(N,) bool: False for the padding that makes the ranks' shares equal."""

    def to(self, device: torch.device) -> EvalBatch:
        """As `Batch.to`."""
        return _to_device(self, device)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor to a device without making the host wait; one that is there is returned as it is."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _to_device(batch: AnyBatch, device: torch.device) -> AnyBatch:
    return type(batch)(**{each.name: send(getattr(batch, each.name), device) for each in fields(batch)})
