"""Host memory for batches that is used again as soon as nobody refers to it.

A batch of 64 pairs is 77 MB, and memory that the system hands out new costs it a page fault each 4 kB: on the virtual
machine that we measured, 0.7 ms a pair, eight times what mixing itself takes. So a batch's memory goes round. Nobody
has to give it back: whoever keeps a batch, a view or a slice of it refers to the memory, and so keeps it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

KEPT = 8
"""Arrays that are remembered: those that a loader has ahead, the one in use, a validation set's last, smaller one."""


class BatchMemory:
    """Memory of one loader; `take` is called by one thread only."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array, C-contiguous, whatever is in it, that nobody else refers to.

        A tensor of `torch.from_numpy` refers to it as long as the tensor's storage lives.
        """
        for i in range(len(self._arrays)):  # a loop over the arrays would refer to them
            fits = self._arrays[i].shape == shape and self._arrays[i].dtype == dtype
            if fits and _references(self._arrays, i) == _UNUSED:
                return self._arrays[i]
        array = np.empty(shape, dtype)
        self._arrays = [array, *self._arrays[: KEPT - 1]]
        return array

    def images(self, views: int, n: int, size: int) -> tuple[torch.Tensor, NDArray[np.float32]]:
        """Return images (V n, 3, S, S) float32, channels-last, and the same memory as (V, n, S, S, 3)."""
        out = self.take((views, n, size, size, 3), np.float32)
        # memory that is dense in (image, y, x, channel) order is what PyTorch calls channels-last
        return torch.from_numpy(out).view(views * n, size, size, 3).permute(0, 3, 1, 2), out


def _references(arrays: Sequence[NDArray[Any]], i: int) -> int:
    return sys.getrefcount(arrays[i])


_UNUSED = _references([np.empty(0)], 0)
"""What is counted for an array of which only the list knows."""
