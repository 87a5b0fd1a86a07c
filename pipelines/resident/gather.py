"""Padded crops of a resident set in plain PyTorch, on any device: what kernel.py is to give.

Every value stays on the device, so a CUDA graph may hold this too.
"""

from __future__ import annotations

import torch


def gather_crops(
    images: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, flips: torch.Tensor, pad: int
) -> torch.Tensor:
    """Cut V crops of each of n images, as `ResidentImages.padded_crop` does: (V, n, H, W, 3) uint8.

    Args:
        images: (M, H, W, 3) uint8.
        indices: (n,) int.
        offsets: (n, V, 2) int (dy, dx) in [0, 2 pad].
        flips: (n, V) bool.
        pad: black pixels on each side.
    """
    height, width = images.shape[1:3]
    down = torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    columns = torch.where(flips.T[..., None], width - 1 - across, across) + offsets[..., 1].T[..., None] - pad
    rows = down + offsets[..., 0].T[..., None] - pad  # (V, n, H)
    inside = _within(rows, height)[..., :, None] & _within(columns, width)[..., None, :]
    views = images[
        indices[:, None, None],
        rows.clamp(0, height - 1)[..., :, None],
        columns.clamp(0, width - 1)[..., None, :],
    ]
    return views * inside[..., None]


def _within(places: torch.Tensor, size: int) -> torch.Tensor:
    return (places >= 0) & (places < size)
