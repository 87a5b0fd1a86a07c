"""What `mix` means, in plain PyTorch on any device; the fast backends are tested against it.

    mix(views_a, views_b, lam, cut_boxes, mean, std) -> one channels-last batch

GLMC (Du et al., CVPR 2023, equations 1 to 3; official code `util.GLMC_mixed`): of each pair one MixUp image,
from the first views, and one CutMix image, from the second. Stream b's patch is pasted into stream a's image.
"""

from __future__ import annotations

import torch

from pipelines.views import Views

ChannelValues = tuple[float, float, float]
"""One number for each of red, green and blue, in units of the full range (255 is 1)."""


def mix(
    views_a: Views,
    views_b: Views,
    lam: torch.Tensor,
    cut_boxes: torch.Tensor,
    mean: ChannelValues | torch.Tensor,
    std: ChannelValues | torch.Tensor,
) -> torch.Tensor:
    """Mix n pairs.

    Args:
        views_a: two views (n, H, W, 3) uint8 of each image of stream a.
        views_b: the same of stream b.
        lam: (n,) float32 in [0, 1], the weight of image a in the MixUp image.
        cut_boxes: (n, 4) int (y0, x0, y1, x1), half-open, in pixels of the view: b's patch.
        mean: of each channel; a tensor (3,) on the views' device saves a GPU the wait for its copy.
        std: of each channel.

    Returns:
        (2 n, 3, H, W) float32, channels-last, normalised as (x / 255 - mean) / std: first the n MixUp images
        λ a1 + (1 - λ) b1, then the n CutMix images, a2 with b2 inside the box.
    """
    a1, a2, b1, b2 = (view.float() for view in (*views_a, *views_b))
    weight = lam.float()[:, None, None, None]
    mixed_up = weight * a1 + (1 - weight) * b1
    height, width = a1.shape[1:3]
    rows = torch.arange(height, device=a1.device)[:, None, None]
    columns = torch.arange(width, device=a1.device)[:, None]
    y0, x0, y1, x1 = (side[:, None, None, None] for side in cut_boxes.T)
    inside = (y0 <= rows) & (rows < y1) & (x0 <= columns) & (columns < x1)
    cut_mixed = torch.where(inside, b2, a2)
    return normalise(torch.cat([mixed_up, cut_mixed]), mean, std)


def normalise(
    views: torch.Tensor, mean: ChannelValues | torch.Tensor, std: ChannelValues | torch.Tensor
) -> torch.Tensor:
    """Return (x / 255 - mean) / std of views (n, H, W, 3), as (n, 3, H, W) float32, channels-last."""
    means, stds = (
        values if isinstance(values, torch.Tensor) else torch.tensor(values, device=views.device)
        for values in (mean, std)
    )
    return ((views.float() / 255 - means) / stds).permute(0, 3, 1, 2)
