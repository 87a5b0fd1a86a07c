"""λ and the cut boxes: how image b is mixed into image a. One λ serves MixUp and CutMix of a pair."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from pipelines.draws.draw import Draw, Purpose, uniforms
from pipelines.user_error import UserError


@dataclass(frozen=True)
class MixSettings:
    """How λ and the cut box are drawn; the defaults are the official code's (GLMC, `2c0261c`).

    Errors: `UserError` for a β that is not positive and finite, or a choice that does not exist.
    """

    beta: float = 1.0
    """λ ~ Beta(β, β). The official code draws Beta(1, 1), uniform; its README says 0.5, the paper β."""
    scope: Literal["batch", "sample"] = "batch"
    """One λ and box for each global batch (official code), or for each sample (the paper's notation)."""
    cut_label: Literal["lam", "area"] = "lam"
    """Weight of label a in CutMix: lam is λ (official code, paper), area 1 - the box's true area (CMO)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise UserError(f"mix.beta is {self.beta}: it must be a finite number above 0")
        for name, choices in (("scope", ("batch", "sample")), ("cut_label", ("lam", "area"))):
            if getattr(self, name) not in choices:
                raise UserError(f"mix.{name} is {getattr(self, name)!r}: it must be {' or '.join(choices)}")


@dataclass(frozen=True)
class MixDraws:
    """How n pairs are mixed."""

    lam_mix: NDArray[np.float32]
    """(n,) in [0, 1]: weight of image a and of label a in MixUp."""
    lam_cut: NDArray[np.float32]
    """(n,) in [0, 1]: weight of label a in CutMix."""
    cut_boxes: NDArray[np.int32]
    """(n, 4) (y0, x0, y1, x1), half-open, in pixels of the view: where b replaces a; may be empty."""


def draw_mixing(draw: Draw, settings: MixSettings, *, height: int, width: int, global_batch: int) -> MixDraws:
    """Draw λ and the cut box of each place, for views of `height` x `width` pixels.

    With scope "batch" they are keyed by the step, place // global_batch, so all ranks get the same.
    """
    purpose, inverse = Purpose.MIX_SAMPLE, None
    if settings.scope == "batch":
        steps, inverse = np.unique(draw.places // global_batch, return_inverse=True)
        purpose, draw = Purpose.MIX_BATCH, dataclasses.replace(draw, places=steps)
    u_lam, u_y, u_x = uniforms(draw, purpose, 3).T
    # Beta by inverse CDF, so that it takes one uniform number; Beta(1, 1) is that number itself.
    quantile = u_lam if settings.beta == 1 else betaincinv(settings.beta, settings.beta, u_lam)
    lam = quantile.astype(np.float32)  # the box below follows from this rounded λ
    boxes = cut_boxes(lam, (u_y * height).astype(np.int64), (u_x * width).astype(np.int64), height, width)
    lam_cut = lam if settings.cut_label == "lam" else _share_left(boxes, height, width)
    if inverse is None:
        return MixDraws(lam, lam_cut, boxes)
    return MixDraws(lam[inverse], lam_cut[inverse], boxes[inverse])


def cut_boxes(
    lam: NDArray[np.float32],
    centre_y: NDArray[np.int64],
    centre_x: NDArray[np.int64],
    height: int,
    width: int,
) -> NDArray[np.int32]:
    """CutMix boxes with the official rounding: (n, 4) int32 from λ (n,) and whole-pixel centres (n,).

    A side is ceil(size * sqrt(1 - λ)) pixels, but c - side // 2 to c + side // 2 loses one where that is odd,
    and clipping to the image takes more: the area is at most about 1 - λ. (The official code calls rows W;
    here names agree with axes. For square views that is the same.)
    """
    root = np.sqrt(1 - lam.astype(np.float64))
    half_y = np.ceil(height * root).astype(np.int64) // 2
    half_x = np.ceil(width * root).astype(np.int64) // 2
    y0, y1 = np.clip([centre_y - half_y, centre_y + half_y], 0, height)
    x0, x1 = np.clip([centre_x - half_x, centre_x + half_x], 0, width)
    return np.stack([y0, x0, y1, x1], axis=1).astype(np.int32)


def _share_left(boxes: NDArray[np.int32], height: int, width: int) -> NDArray[np.float32]:
    """Share of a's pixels that a box leaves, (n,) float32."""
    y0, x0, y1, x1 = boxes.astype(np.int64).T
    return (1 - (y1 - y0) * (x1 - x0) / (height * width)).astype(np.float32)
