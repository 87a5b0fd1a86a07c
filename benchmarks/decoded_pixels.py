"""How far the pixels of DALI's decoders are from libjpeg-turbo's: mean, 99th percentile and the largest difference.

The crops are as large as they are in the source image, so no resize comes between. On a GPU there are three decoders,
nvJPEG's with Huffman codes decoded by the host or by the GPU, and the hardware's; each is asked for alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.measurement import Row, row_of
from pipelines.beton.reader import BetonFile
from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.decode_dali import DaliDecoder
from pipelines.user_error import UserError

IMAGES = 64
DECODERS = {
    "nvJPEG, host Huffman": DaliSettings(hardware_share=0, huffman_threshold=1_000_000_000),
    "nvJPEG, GPU Huffman": DaliSettings(hardware_share=0, huffman_threshold=0),
    "nvJPEG, hardware": DaliSettings(hardware_share=1),
}
ON_CPU = {"DALI on the CPU": DaliSettings()}


def difference_rows(beton: BetonFile, threads: int, device: torch.device, notes: list[str]) -> list[Row]:
    """Rows of each decoder of the device, in levels of 255, over the middle squares of up to IMAGES images.

    One that fails has no rows, but a line in `notes`.
    """
    indices = np.arange(min(IMAGES, beton.num_images))
    sizes = np.stack([beton.heights[indices], beton.widths[indices]], axis=1).astype(np.int64)
    side = int(sizes.min())
    corners = (sizes - side) // 2
    reference = libjpeg_squares(beton, indices, corners, side)
    rows: list[Row] = []
    samples = [beton.image_bytes(i) for i in indices.tolist()]
    boxes = np.concatenate([corners, corners + side], axis=1)[:, None].astype(np.float64)
    no_flips = np.zeros((len(indices), 1), np.bool_)
    for name, settings in (DECODERS if device.type == "cuda" else ON_CPU).items():
        shape = DaliShape(max_batch=len(indices), views=1, size=side, depth=1)
        try:
            decoder = DaliDecoder(shape, settings, threads=threads, device=device)
            [squares] = decoder.take(decoder.schedule(samples, boxes, no_flips, sizes, crop_first=True))
        except (RuntimeError, UserError) as error:
            notes.append(f"{name} failed: {' '.join(str(error).split())}")
            continue
        rows += rows_of(name, squares.cpu().numpy(), reference)
        decoder.release([squares])
    return rows


def libjpeg_squares(
    beton: BetonFile, indices: NDArray[np.int64], corners: NDArray[np.int64], side: int
) -> NDArray[np.uint8]:
    """(n, side, side, 3): the squares at (y, x) of whole images by libjpeg-turbo, through torchvision."""
    squares = np.empty((len(indices), side, side, 3), np.uint8)
    for square, i, (y, x) in zip(squares, indices.tolist(), corners.tolist(), strict=True):
        whole = decode_jpeg(torch.from_numpy(np.array(beton.image_bytes(i))), ImageReadMode.RGB)
        square[:] = whole[:, y : y + side, x : x + side].permute(1, 2, 0)
    return squares


def rows_of(name: str, pixels: NDArray[np.uint8], reference: NDArray[np.uint8]) -> list[Row]:
    """Sum up the differences of all samples."""
    levels = np.abs(pixels.astype(np.int16) - reference)
    values = {
        "mean_difference": levels.mean(),
        "p99_difference": np.percentile(levels, 99),
        "largest_difference": levels.max(),
    }
    return [
        row_of([float(value)], name=f"pixels/{name}", metric=metric, unit="levels")
        for metric, value in values.items()
    ]
