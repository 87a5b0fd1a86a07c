"""What `--max-size` costs: bytes of an image in the beton, and the time to decode it, for several sizes.

The sources are larger than all of them: scikit-learn's two sample photos, enlarged to 1,024 pixels, with noise
so that they have a photograph's fine detail. Bytes depend on the pictures; the ratios between sizes do less so.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.measurement import NONE, Case, Row, row_of, values_in_turn
from pipelines.beton.encoded_image import EncodedImage
from pipelines.conversion.image_bytes import ImageSettings, encode_image

SIZES = (256, 384, 500, 800, None)
"""None keeps the source's."""
SHAPES = ((768, 1024), (1024, 768), (683, 1024), (1024, 683))
"""(height, width) of the sources in pixels."""
NOISE = 8.0
"""Standard deviation in grey levels."""
RUNS = 5


def size_rows(folder: Path, count: int) -> list[Row]:
    """Measure with `count` sources, which are made in `folder`."""
    sources = _make_sources(folder, count)
    encoded = {size: [encode_image(path, ImageSettings(max_size=size)) for path in sources] for size in SIZES}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = [_decoding(_name(size), images) for size, images in encoded.items()]
        times = values_in_turn(cases, RUNS)
    finally:
        torch.set_num_threads(threads)
    rows = []
    for (size, images), values in zip(encoded.items(), times, strict=True):
        kilobytes = [len(image.data) / 1000 for image in images]
        name = _name(size)
        rows += [
            row_of([float(np.mean(kilobytes))], name=name, metric="mean_jpeg_kilobytes", unit="kB"),
            row_of(kilobytes, name=name, metric="jpeg_kilobytes", unit="kB"),
            row_of(values, name=name, metric="decode_milliseconds", unit="ms"),
        ]
    return rows


def _name(size: int | None) -> str:
    return "source of 1024 px" if size is None else f"--max-size {size}"


def _make_sources(folder: Path, count: int) -> list[Path]:
    """Write JPEGs of quality 95, chroma at half resolution."""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    paths = [folder / f"large-{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        rng = np.random.default_rng([1024, i])
        height, width = SHAPES[i % len(SHAPES)]
        photo = photos[rng.integers(len(photos))]
        share = rng.uniform(0.8, 1) * min(photo.height / height, photo.width / width)
        y0, x0 = rng.uniform(0, photo.height - share * height), rng.uniform(0, photo.width - share * width)
        box = (x0, y0, x0 + share * width, y0 + share * height)
        large = photo.resize((width, height), Image.Resampling.BICUBIC, box=box)
        noisy = np.asarray(large) + rng.normal(scale=NOISE, size=(height, width, 3))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=95)
    return paths


def _decoding(name: str, images: list[EncodedImage]) -> Case:
    """Milliseconds an image, by the decoder of the CPU loader in one thread."""
    buffers = [torch.from_numpy(np.frombuffer(image.data, np.uint8).copy()) for image in images]

    def measure() -> float:
        start = time.perf_counter()
        for buffer in buffers:
            decode_jpeg(buffer, ImageReadMode.RGB)
        return 1000 * (time.perf_counter() - start) / len(buffers)

    return Case(name=name, metric="decode_milliseconds", unit="ms", augmentation=NONE, measure=measure)
