"""Ask the operating system for the bytes of images that a later batch will read (posix_fadvise, WILLNEED).

A decoder that touches a mapped page that is not in memory waits for the disk, one page after another; asked ahead,
the disk works on many at once while the batches before are being made.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.reader import BetonFile
from pipelines.draws.views import ViewSettings

STEPS_AHEAD = 8
"""From asking for the bytes of a batch to decoding them: more than batches are prepared ahead."""


class ReadAhead:
    """The open file behind a beton."""

    def __init__(self, beton: BetonFile) -> None:
        self.beton = beton
        self.descriptor = os.open(beton.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)

    def __call__(self, indices: NDArray[np.int64]) -> None:
        """Begin to read these images; returns at once for pages that are in memory."""
        offsets, sizes = self.beton.offsets[indices], self.beton.sizes[indices]
        for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
            os.posix_fadvise(self.descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def open_read_ahead(beton: BetonFile, view: ViewSettings) -> Callable[[NDArray[np.int64]], None]:
    """What asks for the bytes of a beton's images; nothing where they are in memory whole (view.crop padded)."""
    return ReadAhead(beton) if view.crop == "resized" else _nothing


def _nothing(indices: NDArray[np.int64]) -> None:
    """The images are in memory."""
