"""The draws of an epoch as one block of memory: a record a step, for a device that finds its step by a counter.

For small sets held in device memory, whose steps are too short for the host to draw and upload each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch import Batch
from pipelines.draws.mixing import MixDraws
from pipelines.draws.views import ViewDraws


@dataclass(frozen=True)
class StepDraws:
    """What one step of n pairs (or n plain images) takes from its record; each is contiguous."""

    labels: torch.Tensor
    """(streams, n) int64, stream a first; one stream where images are not paired."""
    indices: torch.Tensor
    """(streams, n) int32, which images of the set."""
    offsets: torch.Tensor
    """(streams, n, V, 2) int32 (dy, dx), corners of padded crops."""
    cut_boxes: torch.Tensor
    """(n, 4) int32 (y0, x0, y1, x1)."""
    lam: torch.Tensor
    """(V, n) float32: as in `Batch`."""
    flips: torch.Tensor
    """(streams, n, V) bool."""

    def batch(self, images: torch.Tensor) -> Batch:
        """The step's batch, of its finished images."""
        return Batch(images, self.labels[0], self.labels[-1], self.lam)


@dataclass(frozen=True)
class RecordLayout:
    """Where everything lies in the record of a step."""

    streams: int
    """1, or 2 for pairs."""
    views: int
    """V of each image."""
    pairs: int
    """n of a step."""

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The record; numbers of 8 bytes first, then of 4, then of 1, so that each lies at a multiple of its size."""
        s, v, n = self.streams, self.views, self.pairs
        fields = [
            ("labels", np.int64, (s, n)),
            ("indices", np.int32, (s, n)),
            ("offsets", np.int32, (s, n, v, 2)),
            ("cut_boxes", np.int32, (n, 4)),
            ("lam", np.float32, (v, n)),
            ("flips", np.bool_, (s, n, v)),
        ]
        return np.dtype([*fields, ("end", np.uint8, (-np.dtype(fields).itemsize % 16,))])

    def pack(
        self,
        streams: tuple[ViewDraws, ...],
        mixing: MixDraws | None,
        labels: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> None:
        """Write T steps.

        Args:
            streams: the draws of each stream at the T·n places of the steps, step after step.
            mixing: likewise; None where nothing is mixed.
            labels: (M,) of all images of the set.
            out: (T, bytes of a record).
        """
        steps, n = len(out), self.pairs
        records = out.view(self.dtype)[:, 0]
        for s, how in enumerate(streams):
            records["labels"][:, s] = labels[how.indices].reshape(steps, n)
            records["indices"][:, s] = how.indices.reshape(steps, n)
            records["offsets"][:, s] = how.crops.reshape(steps, n, self.views, 2)
            records["flips"][:, s] = how.flips.reshape(steps, n, self.views)
        if mixing is None:
            records["lam"], records["cut_boxes"] = 1, 0
        else:
            records["lam"][:, 0] = mixing.lam_mix.reshape(steps, n)
            records["lam"][:, 1] = mixing.lam_cut.reshape(steps, n)
            records["cut_boxes"] = mixing.cut_boxes.reshape(steps, n, 4)

    def unpack(self, record: torch.Tensor) -> StepDraws:
        """See the bytes of one record, (bytes,) uint8 on any device, as what they are; nothing is copied."""
        return StepDraws(**{name: self._field(record, name) for name in StepDraws.__dataclass_fields__})

    def _field(self, record: torch.Tensor, name: str) -> torch.Tensor:
        field, start = self.dtype.fields[name][:2]  # type: ignore[index]
        assert field.subdtype is not None
        dtype = TORCH_DTYPES[field.subdtype[0].type]
        return record[start : start + field.itemsize].view(dtype).view(field.shape)


TORCH_DTYPES = {
    np.int64: torch.int64,
    np.int32: torch.int32,
    np.float32: torch.float32,
    np.bool_: torch.bool,
}
