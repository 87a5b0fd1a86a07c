"""Photographs to measure with, of the size of ImageNet's, made from scikit-learn's two sample photos.

Nothing is downloaded. Each one is a random crop of a sample photo, resized to one of ImageNet's common sizes,
with noise of a drawn strength, as a JPEG of a drawn quality. Noise and quality were chosen so that the files are
as large as ImageNet's (about 110 kB on average), for what a decoder costs depends on the bytes as well as on
the pixels. The project's own converter makes the beton from them, byte for byte, so a peer that reads files and
a loader that reads the beton decode the same bytes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.measurement import Row, row_of
from pipelines.beton.format import JPEG_MODE
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import ImageSettings
from pipelines.conversion.settings import ConversionSettings
from pipelines.sources.image_list import from_rows
from pipelines.user_error import UserError

RECIPE = 1
"""Number of the recipe below, in the name of the cached folder: another recipe makes other files."""
SIZES = ((375, 500), (375, 500), (375, 500), (500, 375), (333, 500), (500, 333))
"""(height, width) in pixels; 500 x 375 is ImageNet's most frequent size."""
NOISE = (6.0, 18.0)
"""Bounds of the standard deviation of the noise, in grey levels."""
QUALITY = (91, 97)
"""Bounds of the JPEG quality, the upper one left out; chroma at half resolution."""
BETON = "photographs.beton"
CLASSES = 20
IMBALANCE = 20
"""Images of the first class over those of the last."""


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """n source images, as a beton and as files."""

    beton: BetonFile
    folder: Path
    """Of the beton and the files."""

    @property
    def files(self) -> tuple[Path, ...]:
        """(n,) the same bytes, file i that of image i."""
        return tuple(_files(self.folder, self.beton.num_images))

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        return self.beton.labels

    def rows(self) -> list[Row]:
        """Say how large the images are: median, smallest and largest, and the mean of the bytes."""
        sizes = self.beton.sizes / 1000
        pixels = self.beton.heights.astype(np.int64) * self.beton.widths / 1e6
        return [
            row_of(sizes.tolist(), name="photographs", metric="jpeg_kilobytes", unit="kB"),
            row_of([float(sizes.mean())], name="photographs", metric="mean_jpeg_kilobytes", unit="kB"),
            row_of(pixels.tolist(), name="photographs", metric="megapixels", unit="Mpx"),
        ]


@contextmanager
def open_photographs(options: argparse.Namespace) -> Iterator[Photographs]:
    """Photographs for a benchmark with --images and --beton: the user's, or those made and kept for the next time."""
    if options.beton is None:
        yield made_photographs(options.images)
        return
    with tempfile.TemporaryDirectory(prefix="fasttail-benchmark-") as folder:
        yield photographs_of(open_beton(options.beton), options.images, Path(folder))


def made_photographs(count: int, *, seed: int = 0, cache: Path | None = None) -> Photographs:
    """Return `count` photographs, which the cache (default: ~/.cache/fasttail) keeps; the same for the same seed."""
    if cache is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fasttail"
    folder = cache / f"photographs-{RECIPE}-{count}-{seed}"
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".photographs-", dir=cache) as partial:
                make_files(Path(partial) / "whole", count, seed)
                (Path(partial) / "whole").rename(folder)
        except OSError as error:
            if not folder.is_dir():  # unless another process made it meanwhile
                raise UserError(
                    f"{folder}: the photographs cannot be made ({error.strerror}); set XDG_CACHE_HOME to a "
                    "folder with room for them"
                ) from None
    return photographs_in(folder)


def photographs_in(folder: Path) -> Photographs:
    """Return the photographs that `made_photographs` or `photographs_of` wrote to a folder."""
    return Photographs(beton=open_beton(folder / BETON), folder=folder)


def make_files(folder: Path, count: int, seed: int) -> None:
    """Write `count` JPEG files, 00000.jpg and so on, and photographs.beton, which holds them, to a new folder."""
    folder.mkdir()
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for i, path in enumerate(_files(folder, count)):
        rng = np.random.default_rng([seed, i])
        height, width = SIZES[rng.integers(len(SIZES))]
        photo = _crop(photos[rng.integers(len(photos))], height, width, rng)
        noise = rng.normal(scale=rng.uniform(*NOISE), size=(height, width, 3))
        pixels = np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=int(rng.integers(*QUALITY)), subsampling="4:2:0")
    _convert(folder, long_tailed_labels(count, np.random.default_rng([seed, count])))


def photographs_of(beton: BetonFile, count: int, folder: Path) -> Photographs:
    """Return `count` images of a beton, evenly spread over it, as files in `folder` and a beton of them.

    Raises:
        UserError: there are fewer images, or some are raw pixels.
    """
    if beton.num_images < count:
        raise UserError(
            f"{beton.path}: holds {beton.num_images} images; give --images {beton.num_images} or fewer"
        )
    chosen = np.linspace(0, beton.num_images - 1, count).round().astype(np.int64)
    if (beton.modes[chosen] != JPEG_MODE).any():
        raise UserError(
            f"{beton.path}: holds raw pixels; give a beton of JPEGs, for decoding is what is measured"
        )
    for i, path in zip(chosen.tolist(), _files(folder, count), strict=True):
        path.write_bytes(beton.image_bytes(i).tobytes())
    _, labels = np.unique(beton.labels[chosen], return_inverse=True)
    _convert(folder, labels)
    return photographs_in(folder)


def long_tailed_labels(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) int64 in a random order, exponentially fewer from class to class, of up to CLASSES classes."""
    classes = min(CLASSES, count)
    shares = IMBALANCE ** -np.linspace(0, 1, classes)
    counts = np.maximum(1, np.floor(shares / shares.sum() * count)).astype(np.int64)
    # one image at least for each class may be too many: the largest classes give theirs
    while counts.sum() > count:
        counts[np.flatnonzero(counts == counts.max())[-1]] -= 1
    counts[0] += count - counts.sum()
    return rng.permutation(np.repeat(np.arange(classes), counts))


def _files(folder: Path, count: int) -> list[Path]:
    return [folder / f"{i:05d}.jpg" for i in range(count)]


def _crop(photo: Image.Image, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """Resize a random part of the photo, of the wanted shape and 60 to 100 % of the largest one, to the size."""
    share = rng.uniform(0.6, 1) * min(photo.height / height, photo.width / width)
    y0 = rng.uniform(0, photo.height - share * height)
    x0 = rng.uniform(0, photo.width - share * width)
    box = (x0, y0, x0 + share * width, y0 + share * height)
    return photo.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _convert(folder: Path, labels: np.ndarray) -> None:
    names = [path.name for path in _files(folder, len(labels))]
    classes = [str(label) for label in range(int(labels.max()) + 1)]
    images = from_rows(names, labels.tolist(), classes, kind="list", name="photographs")
    done = convert_images(images, folder, folder / BETON, ConversionSettings(image=ImageSettings()))
    assert done.copied == len(labels), "a beton's JPEGs and those made here go in byte for byte"
