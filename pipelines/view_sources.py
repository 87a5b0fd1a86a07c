"""Where views come from: betons of JPEGs, decoded; or small sets, held in memory.

Both answer the same three questions: how a crop is drawn, how a slice of training views is made, and how a
slice of evaluation views is. They work in the calling thread, so that a task of the pool makes its own slice.
"""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.augment_cpu import augment_into
from pipelines.beton.format import RAW_MODE
from pipelines.beton.reader import BetonFile
from pipelines.decode_cpu import DecodeError, decode_into
from pipelines.draws.crops import draw_padded_offsets, draw_resized_boxes
from pipelines.draws.draw import Draw
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.eval_boxes import resize_center_crop_boxes
from pipelines.jpeg.turbojpeg import require_library
from pipelines.resident.images import ResidentImages
from pipelines.user_error import UserError


class ViewSource(Protocol):
    """One set of images, as views of one size."""

    images_per_task: int
    """Source images that one task of the pool should take."""

    def draw_crops(self, draw: Draw, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """(n, K) int32: where one view of each image is cut."""

    def training_views(self, how: ViewDraws, rows: slice, out: NDArray[np.uint8]) -> None:
        """Fill `out` (V, m, S, S, 3) uint8 with the views of the given rows of the draws."""

    def evaluation_views(self, indices: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Fill `out` (m, S, S, 3) uint8 with the middle of each image."""


class DecodedViews:
    """Views of a beton whose images are decoded each time."""

    images_per_task = 4

    def __init__(self, beton: BetonFile, settings: ViewSettings) -> None:
        if (beton.modes != RAW_MODE).any():
            require_library()  # now, for the first JPEG that needs it may come after hours
        self.beton = beton
        self.settings = settings

    def draw_crops(self, draw: Draw, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """(n, 4) int32 boxes (y0, x0, y1, x1) of a RandomResizedCrop."""
        heights, widths = self.beton.heights[indices], self.beton.widths[indices]
        return draw_resized_boxes(draw, heights, widths, scale=self.settings.scale)

    def training_views(self, how: ViewDraws, rows: slice, out: NDArray[np.uint8]) -> None:
        """Decode once, cut V crops, then change the colours where the recipe asks."""
        self._decode(
            how.indices[rows], how.crops[rows].astype(np.float64), how.flips[rows], out, crop_first=True
        )
        _change_colours(how, rows, out)

    def evaluation_views(self, indices: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """torchvision's Resize(eval_resize) and CenterCrop(size)."""
        boxes = self.evaluation_boxes(indices)[:, None]
        no_flips = np.zeros((len(indices), 1), np.bool_)
        self._decode(indices, boxes, no_flips, out[None], crop_first=False)

    def evaluation_boxes(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 4) boxes (y0, x0, y1, x1) of the evaluation views, of fractional pixels."""
        return resize_center_crop_boxes(
            self.beton.heights[indices],
            self.beton.widths[indices],
            self.settings.eval_resize,
            self.settings.size,
        )

    def _decode(
        self,
        indices: NDArray[np.int64],
        boxes: NDArray[np.float64],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
        *,
        crop_first: bool,
    ) -> None:
        samples = [self.beton.image_bytes(i) for i in indices.tolist()]
        try:
            decode_into(samples, boxes, flips, out, crop_first=crop_first)
        except DecodeError as error:
            raise self.bad_image(int(indices[error.position]), error.reason) from None
        except ValueError:
            # boxes are drawn from the sizes in the beton's tables, so one that does not fit means a damaged JPEG
            for index, sample in zip(indices.tolist(), samples, strict=True):
                height, width = int(self.beton.heights[index]), int(self.beton.widths[index])
                if sample.ndim == 1 and Image.open(io.BytesIO(sample.tobytes())).size != (width, height):
                    raise self.bad_image(index, f"not {height} x {width} pixels, as the file says") from None
            raise

    def bad_image(self, index: int, reason: str) -> UserError:
        """The mistake that ends a run: which file, which image, where it came from."""
        source = self.beton.source_path(index) or "source path not recorded"
        return UserError(
            f"{self.beton.path}: image {index} ({source}) is {reason}; "
            "convert the set again from a sound copy of that image"
        )


class ResidentViews:
    """Views of a set of small images of one size, held in memory whole."""

    images_per_task = 64

    def __init__(self, images: ResidentImages, settings: ViewSettings) -> None:
        self.images = images
        self.pad = settings.pad

    def draw_crops(self, draw: Draw, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """(n, 2) int32 offsets (dy, dx) of a padded crop."""
        return draw_padded_offsets(draw, self.pad)

    def training_views(self, how: ViewDraws, rows: slice, out: NDArray[np.uint8]) -> None:
        """Cut V padded crops of each image, then change the colours where the recipe asks."""
        for view, target in enumerate(out):
            self.images.padded_crop(
                how.indices[rows], how.crops[rows, view], how.flips[rows, view], self.pad, out=target
            )
        _change_colours(how, rows, out)

    def evaluation_views(self, indices: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy the images as they are."""
        self.images.gather(indices, out=out)


def open_views(beton: BetonFile, settings: ViewSettings) -> ViewSource:
    """The source of a beton's views that `view.crop` asks for, or the reason why it cannot be."""
    if settings.crop == "resized":
        return DecodedViews(beton, settings)
    images = beton.raw_images()
    if images is None:
        raise UserError(
            f"{beton.path}: view.crop padded needs a set of small raw images of one size, as digits are; "
            "use --view.crop resized for photographs"
        )
    if images.shape[1:3] != (settings.size, settings.size):
        raise UserError(
            f"{beton.path}: its images are {images.shape[1]} x {images.shape[2]} pixels and view.size is "
            f"{settings.size}; a padded crop keeps the size, so set view.size to it"
        )
    return ResidentViews(ResidentImages(images), settings)


def _change_colours(how: ViewDraws, rows: slice, out: NDArray[np.uint8]) -> None:
    for views, colour in zip(out, how.colours, strict=False):
        augment_into(views, colour, rows.start)
