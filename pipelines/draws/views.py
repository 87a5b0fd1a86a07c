"""What a recipe asks of a view, and every draw of one stream of a step, as plain arrays.

The chance itself is made in crops.py and colours.py; here is only which of it a recipe uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.draws.colours import ColourDraws, ColourSettings, draw_colour
from pipelines.draws.crops import draw_flips
from pipelines.draws.draw import Draw
from pipelines.user_error import UserError

AUGMENTATIONS: dict[str, ColourSettings | None] = {"none": None, "jitter-gray-blur": ColourSettings()}
"""By the name in `view.augment`; the second is the official recipe of ImageNet-LT and iNaturalist."""


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """How views are cut from source images and normalised; the defaults are ImageNet's."""

    size: int = 224
    """Side of a view, pixels."""
    crop: Literal["resized", "padded"] = "resized"
    """resized: RandomResizedCrop. padded: RandomCrop with a black border, for small images of one size."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Bounds of a resized crop's share of the image's area (torchvision's default)."""
    pad: int = 4
    """Border of a padded crop, pixels (CIFAR's recipe)."""
    flip: float = 0.5
    """Probability of mirroring a view left to right."""
    augment: Literal["none", "jitter-gray-blur"] = "none"
    """Colours of training views; jitter-gray-blur is GLMC's recipe for photographs (generation `head`)."""
    eval_resize: int = 256
    """Shorter side that evaluation resizes to before it cuts the centre, pixels; with crop resized only."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of each channel, red to blue, in units of full intensity; ImageNet's by default."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, likewise."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"view.size is {self.size}: it must be at least 1 pixel")
        if self.crop == "resized" and self.eval_resize < self.size:
            raise UserError(
                f"view.eval_resize is {self.eval_resize}, less than view.size {self.size}: "
                "evaluation cuts its centre crop out of the resized image"
            )
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise UserError(
                f"view.scale is ({low}, {high}): it must be (low, high) with 0 < low <= high <= 1"
            )
        if self.pad < 0:
            raise UserError(f"view.pad is {self.pad}: it must be 0 or more pixels")
        if not 0 <= self.flip <= 1:
            raise UserError(f"view.flip is {self.flip}: a probability lies in [0, 1]")
        if not all(math.isfinite(value) for value in self.mean):
            raise UserError(f"view.mean is {self.mean}: its three values must be finite")
        for value in self.std:
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"view.std has {value}: a standard deviation must be above 0")


class CropDraws(Protocol):
    """A source of views, as far as drawing is concerned: see view_sources.py."""

    def draw_crops(self, draw: Draw, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """(n, K) int32: where one view of each image is cut."""


@dataclass(frozen=True)
class ViewDraws:
    """How V views of each of n source images are cut: nothing random is left."""

    indices: NDArray[np.int64]
    """(n,) which source images."""
    crops: NDArray[np.int32]
    """(n, V, K): boxes (y0, x0, y1, x1) of resized crops, offsets (dy, dx) of padded ones."""
    flips: NDArray[np.bool_]
    """(n, V) whether a view is mirrored."""
    colours: tuple[ColourDraws, ...]
    """One for each of the V views; empty where the recipe leaves colours alone."""


def draw_views(
    draw: Draw, indices: NDArray[np.int64], views: int, settings: ViewSettings, source: CropDraws
) -> ViewDraws:
    """Draw `views` views of the images that a stream shows at `draw.places`."""
    draws = [replace(draw, view=view) for view in range(views)]
    colour = AUGMENTATIONS[settings.augment]
    return ViewDraws(
        indices=indices,
        crops=np.stack([source.draw_crops(each, indices) for each in draws], axis=1),
        flips=np.stack([draw_flips(each, settings.flip) for each in draws], axis=1),
        colours=() if colour is None else tuple(draw_colour(each, colour) for each in draws),
    )
