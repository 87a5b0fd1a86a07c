"""Augment and mix by the kernels, on the device where the views are: the second stage on a GPU."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.augment_gpu import augment_on_device, colour_parameters
from pipelines.batch import send
from pipelines.draws.mixing import MixDraws
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.mix_kernel import mix_views, normalise_views
from pipelines.views import Views


class GpuMixStage:
    """The kernels, on PyTorch's current stream: a `MixStage` that the host does not wait for."""

    def __init__(self, view: ViewSettings, device: torch.device, dtype: torch.dtype) -> None:
        self.view = view
        self.device = device
        self.dtype = dtype

    def mix(self, views: Views, how_a: ViewDraws, how_b: ViewDraws, mixing: MixDraws) -> torch.Tensor:
        """As `MixStage.mix`."""
        n = len(how_a.indices)
        views_a, views_b = [view[:n] for view in views], [view[n:] for view in views]
        if how_a.colours:
            in_memory = [
                each for of_view in zip(how_a.colours, how_b.colours, strict=True) for each in of_view
            ]
            augment_on_device(views, colour_parameters(in_memory, self.device))
        out = self._images(2 * n)
        lam, boxes = (
            send(torch.from_numpy(np.ascontiguousarray(values)), self.device)
            for values in (mixing.lam_mix, mixing.cut_boxes)
        )
        mix_views(views_a, views_b, lam, boxes, self.view.mean, self.view.std, out)
        return out

    def normalise(self, views: Views, how: ViewDraws | None) -> torch.Tensor:
        """As `MixStage.normalise`."""
        if how is not None and how.colours:
            augment_on_device(views, colour_parameters(how.colours, self.device))
        out = self._images(len(views[0]))
        normalise_views(views[0], self.view.mean, self.view.std, out)
        return out

    def _images(self, n: int) -> torch.Tensor:
        """New images; PyTorch's allocator hands out the memory of earlier steps once they are done with it."""
        size = self.view.size
        images = torch.empty((n, size, size, 3), dtype=self.dtype, device=self.device)
        return images.permute(0, 3, 1, 2)
