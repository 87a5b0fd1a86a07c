"""Batches of a small set that lies on the device whole: the host draws an epoch at a time, the device does the rest.

An ordinary loader says what is drawn. The draws of an epoch go to the device in one upload, and a counter there says
which step of them comes next, so that making a batch asks nothing of the host: a CUDA graph may hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.batch import Batch
from pipelines.beton.reader import BetonFile
from pipelines.draws.draw import Draw
from pipelines.draws.epoch import RecordLayout, StepDraws
from pipelines.mix_reference import mix, normalise
from pipelines.resident.gather import gather_crops
from pipelines.run_ahead import Pending, run_ahead
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import PairedLoader, PlainLoader
from pipelines.user_error import UserError


class ResidentLoader:
    """The batches of `loader`, made on its device."""

    def __init__(
        self,
        loader: PairedLoader | PlainLoader,
        beton: BetonFile,
        pool: ThreadPool,
        *,
        dtype: torch.dtype,
        kernel: bool,
    ) -> None:
        """Copy the set to the device.

        Args:
            loader: an ordinary loader of the same beton, on one rank.
            beton: raw images of one size.
            pool: draws the next epoch.
            dtype: of the images of a batch.
            kernel: make images with the Triton kernel instead of plain PyTorch.

        Raises:
            UserError: the images are not raw ones of one size, or their colours are to be changed.
        """
        view, device = loader.settings.view, loader.settings.device
        pixels = beton.raw_images()
        if pixels is None or view.crop != "padded" or view.augment != "none":
            raise UserError(
                f"{beton.path}: only small raw images of one size, with view.crop padded and view.augment none, can be "
                "trained on from device memory (run.cuda_graph)"
            )
        assert loader.ranks.world_size == 1
        self.inner = loader
        self.pool = pool
        self.settings, self.ranks = loader.settings, loader.ranks
        paired = isinstance(loader, PairedLoader)
        self.layout = RecordLayout(1 + paired, 1 + paired, loader.local_batch)
        self.images = torch.from_numpy(pixels).to(device)
        self.make_images = _kernel_images(self, dtype) if kernel else _gathered_images(self, dtype)
        self.records = torch.zeros(
            (len(loader), self.layout.dtype.itemsize), dtype=torch.uint8, device=device
        )
        """The draws of the present epoch."""
        self.next_step = torch.zeros(1, dtype=torch.int64, device=device)
        """In the epoch: whose record `take` reads."""

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.inner.total_steps

    def batches(self, first_step: int = 0) -> ResidentBatches:
        """As `TrainLoader.batches`, but each batch is a function that makes it."""
        return ResidentBatches(self, first_step)

    def images_of(self, draw: Draw) -> NDArray[np.int64]:
        """As `TrainLoader.images_of`."""
        return self.inner.images_of(draw)

    def take(self) -> Batch:
        """Make the next batch on the device, and count on there."""
        record = self.records.index_select(0, self.next_step)[0]
        self.next_step += 1
        draws = self.layout.unpack(record)
        return draws.batch(self.make_images(draws))

    def start_epoch(self, epoch: int) -> Pending[torch.Tensor]:
        """Let a thread draw an epoch: the records, (steps, bytes) uint8 in memory that the device can copy from."""
        memory = torch.empty(
            self.records.shape, dtype=torch.uint8, pin_memory=self.settings.device.type == "cuda"
        )
        return Pending([self.pool.submit(self._draw, epoch, memory)], lambda: memory)

    def _draw(self, epoch: int, memory: torch.Tensor) -> None:
        steps = len(self)
        drawn: Any = self.inner.draw_step(epoch * steps, steps)
        *streams, mixing = drawn if isinstance(self.inner, PairedLoader) else (drawn, None)
        self.layout.pack(tuple(streams), mixing, self.inner.labels, memory.numpy())


@dataclass(frozen=True)
class ResidentBatches:
    """A function that makes the batch, for each step from `first_step` to the end of the last epoch."""

    loader: ResidentLoader
    first_step: int

    def __len__(self) -> int:
        return max(0, self.loader.total_steps - self.first_step)

    def __iter__(self) -> Iterator[Callable[[], Batch]]:
        loader, steps = self.loader, len(self.loader)
        epochs = range(self.first_step // steps, loader.settings.epochs)
        step_in_epoch = self.first_step % steps
        for records in run_ahead(loader.start_epoch, epochs, 1):
            # The device copies once it has done every step before; PyTorch keeps the pinned memory until then.
            loader.records.copy_(records, non_blocking=True)
            loader.next_step.fill_(step_in_epoch)
            for _ in range(step_in_epoch, steps):
                yield loader.take
            step_in_epoch = 0


def _gathered_images(loader: ResidentLoader, dtype: torch.dtype) -> Callable[[StepDraws], torch.Tensor]:
    """Plain PyTorch: crops by a gather, then the definition of the mix."""
    view = loader.settings.view

    def make(draws: StepDraws) -> torch.Tensor:
        streams = [
            gather_crops(loader.images, draws.indices[s], draws.offsets[s], draws.flips[s], view.pad)
            for s in range(loader.layout.streams)
        ]
        if len(streams) == 1:
            return normalise(streams[0][0], view.mean, view.std).to(dtype)
        a, b = streams
        return mix(a.unbind(), b.unbind(), draws.lam[0], draws.cut_boxes, view.mean, view.std).to(dtype)

    return make


def _kernel_images(loader: ResidentLoader, dtype: torch.dtype) -> Callable[[StepDraws], torch.Tensor]:
    """One Triton kernel; a CPU has Triton only where PyTorch was built for GPUs."""
    from pipelines.resident.kernel import PaddedCrops, mix_resident, normalise_resident

    view, layout = loader.settings.view, loader.layout
    shape = (layout.views * layout.pairs, 3, view.size, view.size)

    def make(draws: StepDraws) -> torch.Tensor:
        out = torch.empty(shape, dtype=dtype, device=loader.images.device, memory_format=torch.channels_last)
        crops = [
            PaddedCrops(draws.indices[s], draws.offsets[s], draws.flips[s], view.pad)
            for s in range(layout.streams)
        ]
        if len(crops) == 1:
            normalise_resident(loader.images, crops[0], view.mean, view.std, out)
        else:
            a, b = crops
            mix_resident(loader.images, a, b, draws.lam[0], draws.cut_boxes, view.mean, view.std, out)
        return out

    return make
