"""One batch of uint8 views that lies on the device, mixed there anew for each step: a trainer without its decoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pipelines.batch import Batch
from pipelines.beton.reader import BetonFile
from pipelines.mix_cpu import mix_into
from pipelines.train_loader import PairedLoader
from pipelines.view_sources import open_views


class FixedBatch:
    """Makes the first batch of a loader, again and again, from its decoded views."""

    def __init__(
        self, beton: BetonFile, loader: PairedLoader, dtype: torch.dtype, *, contiguous: bool
    ) -> None:
        """Decode the views of both streams, (2, n, S, S, 3) uint8 each, and put them on the loader's device.

        Images are of `dtype` (on a CPU float32), NCHW in memory where `contiguous`.
        """
        how_a, how_b, mixing = loader.draw_step(0)
        view, n, device = loader.settings.view, loader.local_batch, loader.settings.device
        source = open_views(beton, view)
        views = np.empty((2, 2, n, view.size, view.size, 3), np.uint8)
        for how, out in zip((how_a, how_b), views, strict=True):
            source.training_views(how, slice(0, n), out)
        self.mean, self.std = view.mean, view.std
        self.contiguous = contiguous
        self.views = torch.from_numpy(views).to(device)
        self.lam_mix = torch.from_numpy(np.ascontiguousarray(mixing.lam_mix)).to(device)
        self.cut_boxes = torch.from_numpy(np.ascontiguousarray(mixing.cut_boxes)).to(device)
        self.label_a, self.label_b = (
            torch.from_numpy(loader.labels[how.indices]).to(device) for how in (how_a, how_b)
        )
        self.lam = torch.from_numpy(np.stack([mixing.lam_mix, mixing.lam_cut])).to(device)
        shape = (2 * n, view.size, view.size, 3)
        self.mix: Callable[[torch.Tensor], None] = (
            self._mix_on_gpu() if device.type == "cuda" else self._mix_on_cpu
        )
        self.empty = lambda: torch.empty(shape, dtype=dtype, device=device)

    def __call__(self) -> Batch:
        """Mix into new memory, as a trainer does for each step."""
        memory = self.empty()
        self.mix(memory)
        images = memory.permute(0, 3, 1, 2)
        return Batch(images.contiguous() if self.contiguous else images, self.label_a, self.label_b, self.lam)

    def _mix_on_gpu(self) -> Callable[[torch.Tensor], None]:
        """Triton comes with PyTorch's CUDA builds only."""
        from pipelines.mix_kernel import mix_views

        a, b = (each.unbind() for each in self.views)
        return lambda memory: mix_views(
            a, b, self.lam_mix, self.cut_boxes, self.mean, self.std, memory.permute(0, 3, 1, 2)
        )

    def _mix_on_cpu(self, memory: torch.Tensor) -> None:
        a, b = (tuple(each) for each in self.views.numpy())
        first, second = memory.numpy().reshape(2, *a[0].shape)
        mix_into(a, b, self.lam_mix.numpy(), self.cut_boxes.numpy(), self.mean, self.std, first, second)
