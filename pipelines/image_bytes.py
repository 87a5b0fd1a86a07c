"""How one source file becomes the bytes of a sample.

A JPEG that every decoder takes (`JpegInfo.universal`) and that is small enough goes in byte for byte:
nothing is lost and nothing is decoded. Everything else is decoded by Pillow, turned upright, made RGB,
shrunk and encoded again as a baseline JPEG, so that a reader of the beton meets one kind of image only.
Alpha is dropped and colour profiles are ignored, as `Image.convert("RGB")` in the usual loaders does.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.beton_format import JPEG_MODE
from pipelines.jpeg_markers import exif_orientation, is_jpeg, read_markers
from pipelines.user_error import UserError

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused: Pillow's own limit against decompression bombs."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image with this EXIF orientation upright."""


_TOO_LARGE = f"more than {MAX_PIXELS:,} pixels; make the image smaller, or take its row out of the list"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The bytes of one sample, as the beton holds them."""

    data: bytes
    """A JPEG file, or RGB pixels row by row."""
    mode: int
    """JPEG_MODE or RAW_MODE."""
    width: int
    height: int
    copied: bool
    """Whether the bytes are the source file's own."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """What becomes of an image; all of it is in the manifest."""

    max_size: int | None = None
    """Pixels; an image whose longer side is longer is shrunk to it. None keeps every size."""
    quality: int = 90
    """JPEG quality of re-encoded images, 1 to 100; FFCV's default."""

    def __post_init__(self) -> None:
        if self.max_size is not None and self.max_size < 1:
            raise UserError(f"--max-size {self.max_size} is not a size in pixels; give 1 or more")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality} is not a JPEG quality; give 1 to 100")


def encode_image(path: Path, settings: ImageSettings) -> EncodedImage:
    """Read an image file and return the bytes that stand for it in a beton.

    Raises:
        UserError: the file is missing, cannot be decoded, is a truncated JPEG, or has more than MAX_PIXELS.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the image: {error.strerror}") from error
    orientation = None
    if is_jpeg(data):
        try:
            info = read_markers(data)
        except ValueError as error:
            raise UserError(f"{path}: {error}; replace the file, or take its row out of the list") from error
        height, width = info.frame.height, info.frame.width
        _check_pixels(path, width * height)
        if info.universal and (settings.max_size is None or max(height, width) <= settings.max_size):
            return EncodedImage(data, JPEG_MODE, width, height, copied=True)
        orientation = info.orientation
    image = _decode(path, data, orientation)
    if settings.max_size is not None and max(image.size) > settings.max_size:
        scale = settings.max_size / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return _encode(path, image, settings.quality)


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow's warning of a huge image an error, which `encode_image` reports, and silence the others.

    Warnings' filters belong to the process: enter this in the main thread, around the threads that encode.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # corrupt EXIF, odd palettes
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _check_pixels(path: Path, pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise UserError(f"{path}: {_TOO_LARGE}")


def _decode(path: Path, data: bytes, orientation: int | None) -> Image.Image:
    """Decode to upright RGB; None for the orientation asks the image's own metadata, for it is no JPEG."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_pixels(path, image.width * image.height)
            image.load()
            rgb = _to_rgb(image)
            if orientation is None:  # a TIFF has no EXIF block, and Pillow has turned it already
                orientation = exif_orientation(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: {_TOO_LARGE}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        raise UserError(
            f"{path}: cannot decode the image ({type(error).__name__}: {error}); replace the file, or take "
            "its row out of the list"
        ) from error
    turn = UPRIGHT.get(orientation)
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip, not scale
        levels = np.asarray(image).astype(np.int64)
        scaled = (np.clip(levels, 0, 65535) + 128) // 257
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _encode(path: Path, image: Image.Image, quality: int) -> EncodedImage:
    image.info.clear()  # comments of the source would go in
    buffer = io.BytesIO()
    try:
        image.save(buffer, "JPEG", quality=quality)
    except (OSError, ValueError) as error:  # sides over 65,500 pixels
        raise UserError(
            f"{path}: {image.width} x {image.height} pixels cannot be written as JPEG; give --max-size"
        ) from error
    return EncodedImage(buffer.getvalue(), JPEG_MODE, image.width, image.height, copied=False)
