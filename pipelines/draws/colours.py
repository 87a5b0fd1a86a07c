"""Parameters of colour jitter, grayscale and blur: the official ImageNet augmentation of GLMC."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.draws.draw import Draw, Purpose, uniforms
from pipelines.user_error import UserError

ORDERS = np.array(list(itertools.permutations(range(3))), np.uint8)
"""(6, 3): the orders of brightness = 0, contrast = 1, saturation = 2."""


@dataclass(frozen=True)
class ColourSettings:
    """Strengths of the colour augmentation; defaults as in GLMC's ImageNet recipe (commit `2c0261c`).

    Errors: `UserError` for a strength that is negative or not finite, a probability outside [0, 1], or an
    impossible range of sigma.
    """

    brightness: float = 0.4
    """x: the factor is uniform in [max(0, 1 - x), 1 + x]."""
    contrast: float = 0.4
    """As brightness."""
    saturation: float = 0.4
    """As brightness."""
    gray_probability: float = 0.2
    """Of a view that loses its colour."""
    blur_probability: float = 0.5
    """Of a view that is blurred."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Bounds of the Gaussian's standard deviation, uniform, in pixels of the view."""

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            strength = getattr(self, name)
            if not (math.isfinite(strength) and strength >= 0):
                raise UserError(f"colour.{name} is {strength}: it must be a finite number, 0 or more")
        for name in ("gray_probability", "blur_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"colour.{name} is {getattr(self, name)}: it must lie in [0, 1]")
        low, high = self.blur_sigma
        if not 0 < low <= high < math.inf:
            raise UserError(
                f"colour.blur_sigma is ({low}, {high}): it must be (low, high) with 0 < low <= high"
            )


@dataclass(frozen=True)
class ColourDraws:
    """How the colours of n views change: jitter in the drawn order, then grayscale, then blur."""

    order: NDArray[np.uint8]
    """(n, 3) operations, first to last: brightness = 0, contrast = 1, saturation = 2."""
    brightness: NDArray[np.float32]
    """(n,) factor; 1 changes nothing."""
    contrast: NDArray[np.float32]
    """(n,) factor."""
    saturation: NDArray[np.float32]
    """(n,) factor."""
    gray: NDArray[np.bool_]
    """(n,) whether the view loses its colour."""
    blur_sigma: NDArray[np.float32]
    """(n,) standard deviation in pixels; 0 is no blur."""


def draw_colour(draw: Draw, settings: ColourSettings) -> ColourDraws:
    """Draw torchvision's `ColorJitter` (without hue), `RandomGrayscale` and blur for each place."""
    u_order, u_brightness, u_contrast, u_saturation, u_gray, u_blur, u_sigma = uniforms(
        draw, Purpose.COLOUR, 7
    ).T
    low, high = settings.blur_sigma
    sigma = np.where(u_blur < settings.blur_probability, low + (high - low) * u_sigma, 0)
    return ColourDraws(
        order=ORDERS[(u_order * len(ORDERS)).astype(np.int64)],
        brightness=_factors(u_brightness, settings.brightness),
        contrast=_factors(u_contrast, settings.contrast),
        saturation=_factors(u_saturation, settings.saturation),
        gray=u_gray < settings.gray_probability,
        blur_sigma=sigma.astype(np.float32),
    )


def _factors(u: NDArray[np.float64], strength: float) -> NDArray[np.float32]:
    """Uniform in [max(0, 1 - strength), 1 + strength]."""
    low = max(0.0, 1 - strength)
    return (low + (1 + strength - low) * u).astype(np.float32)
