"""What a loader asks of whatever makes its images: the draws of a step in, normalised images out.

    fused on a CPU          images_cpu.py      a thread takes some pairs from bytes to mixed images
    in stages               images_staged.py   views (by DALI, by CPU threads, by both, or resident), then augment, mix

open_images.py chooses. Every backend makes the same pictures of the same draws.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.draws.mixing import MixDraws
from pipelines.draws.views import CropDraws, ViewDraws
from pipelines.run_ahead import Pending


class ImageBackend(Protocol):
    """The images of one set. The results are dense in channels-last order."""

    @property
    def crops(self) -> CropDraws:
        """How a crop of this set is drawn."""

    def pairs(self, how_a: ViewDraws, how_b: ViewDraws, mixing: MixDraws) -> Pending[torch.Tensor]:
        """(2 n, 3, S, S), normalised: the MixUp images of n pairs, then their CutMix images."""

    def plain(self, how: ViewDraws) -> Pending[torch.Tensor]:
        """(n, 3, S, S), normalised: the one view of each of n images."""

    def evaluation(self, indices: NDArray[np.int64]) -> Pending[torch.Tensor]:
        """(n, 3, S, S), normalised: the middle of each of n images."""
