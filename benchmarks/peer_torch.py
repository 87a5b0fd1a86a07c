"""`official-style` and `torchvision-v2`: two PyTorch DataLoaders, one of which draws images by class.

`official-style` is what GLMC's official trainer does, written anew from a description: Pillow opens the file, one
transform is applied twice, and a WeightedRandomSampler feeds the second loader. `torchvision-v2` is what
torchvision recommends today: libjpeg-turbo through `decode_jpeg`, and the v2 transforms on uint8 tensors.

The official way makes floats of its views in the workers (ToTensor), for nothing after it takes uint8; without the
colours, its normalisation is left out too. `official-style/uint8` is what it would be with PILToTensor instead. Workers
stay alive, and an epoch is long, so that no time is lost between epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, WeightedRandomSampler
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from benchmarks.feed import Feed
from benchmarks.peer import LONG, MEAN, SIZE, STD, class_balanced_weights
from benchmarks.photographs import Photographs

PREFETCH = 2
"""Batches that each worker prepares ahead (PyTorch's default)."""

Views = tuple[Tensor, Tensor]
Streams = tuple[list[Tensor], list[Tensor]]


class TwoViews(Dataset[Views]):
    """Two views of each file."""

    def __init__(
        self, files: Sequence[Path], read: Callable[[str], object], transform: Callable[[object], Tensor]
    ) -> None:
        self.files = [str(path) for path in files]
        self.read = read
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Views:
        """Decode once, transform twice: two (3, S, S) tensors."""
        image = self.read(self.files[index])
        return self.transform(image), self.transform(image)


class RandomGaussianBlur:
    """Pillow's Gaussian blur of half of the images, its radius uniform in [0.1, 2] pixels."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur, or not."""
        if torch.rand(()) >= 0.5:
            return image
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(0.1, 2.0))))


def open_official(photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed float32 views in [0, 1], crop and flip."""
    return _open_pillow(photographs, workers, batch, transforms.ToTensor())


def open_official_uint8(photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed uint8 views, crop and flip."""
    return _open_pillow(photographs, workers, batch, transforms.PILToTensor())


def open_official_full(photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed mixed, normalised batches (2N, 3, S, S) with the official ImageNet-LT augmentation."""
    official = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.ColorJitter(0.4, 0.4, 0.4, 0.0),
            transforms.RandomGrayscale(0.2),
            RandomGaussianBlur(),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    streams = zip_streams(photographs, read_pillow, official, workers, batch)
    return _feed((mixed(*pair) for pair in streams), workers, batch)


def open_torchvision_v2(photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed uint8 views, crop and flip."""
    crop_flip = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    return _feed(zip_streams(photographs, read_torchvision, crop_flip, workers, batch), workers, batch)


def read_pillow(path: str) -> Image.Image:
    """Decode a file with Pillow."""
    with Image.open(path) as image:
        return image.convert("RGB")


def read_torchvision(path: str) -> Tensor:
    """Decode a file with libjpeg-turbo: (3, h, w) uint8."""
    return decode_jpeg(read_file(path), ImageReadMode.RGB)


def zip_streams(
    photographs: Photographs,
    read: Callable[[str], object],
    transform: Callable[[object], Tensor],
    workers: int,
    batch: int,
) -> Generator[Streams, None, None]:
    """The two loaders side by side: two views (N, 3, S, S) of the uniform stream, two of the weighted one."""
    images = TwoViews(photographs.files, read, transform)
    weights = torch.from_numpy(class_balanced_weights(photographs.labels))
    samplers: tuple[Sampler[int], ...] = (
        RandomSampler(images, num_samples=LONG),
        WeightedRandomSampler(weights.tolist(), LONG, replacement=True),
    )
    uniform, weighted = (
        DataLoader(
            images,
            batch_size=batch,
            sampler=sampler,
            num_workers=workers,
            prefetch_factor=PREFETCH,
            persistent_workers=True,
            multiprocessing_context="fork",  # Linux's default, also inside a process of another kind
        )
        for sampler in samplers
    )
    while True:
        yield from zip(uniform, weighted, strict=True)


def mixed(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """MixUp of the first views, CutMix of the second ones with one λ and box a batch, in plain PyTorch."""
    lam = float(torch.rand(()))
    size = a[1].shape[2]
    side = int(size * (1 - lam) ** 0.5)
    y, x = torch.randint(size, (2,)).tolist()
    y0, y1 = max(0, y - side // 2), min(size, y + side // 2)
    x0, x1 = max(0, x - side // 2), min(size, x + side // 2)
    a[1][:, :, y0:y1, x0:x1] = b[1][:, :, y0:y1, x0:x1]
    return torch.cat([lam * a[0] + (1 - lam) * b[0], a[1]])


def _open_pillow(photographs: Photographs, workers: int, batch: int, to_tensor: object) -> Feed:
    crop_flip = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), to_tensor]
    streams = zip_streams(photographs, read_pillow, transforms.Compose(crop_flip), workers, batch)
    return _feed(streams, workers, batch)


def _feed(batches: Generator[object, None, None], workers: int, batch: int) -> Feed:
    # The workers end when nothing holds the DataLoaders any more.
    return Feed(batches=batches, pairs=batch, ahead=PREFETCH * workers, close=batches.close)
