"""How one source file becomes the bytes of a sample.

A JPEG that every decoder takes (`JpegInfo.universal`) and that is small enough goes in byte for byte:
nothing is lost and nothing is decoded. Everything else is decoded (source_pixels.py), shrunk (shrink.py), turned
upright and encoded again as a baseline JPEG with 4:2:0 chroma and no metadata, so that a reader of the beton meets
one kind of image only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
from PIL import Image

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import JPEG_MODE
from pipelines.conversion.source_pixels import (
    REPLACE,
    Pixels,
    check_pixels,
    decode_any,
    decode_jpeg,
    explained,
    upright,
)
from pipelines.jpeg import walk as jpeg_walk
from pipelines.jpeg.markers import is_jpeg, read_markers
from pipelines.jpeg.scans import check_scans
from pipelines.user_error import UserError

CHECKS = ("markers", "codes", "decode")
LONGEST_SIDE = 65_500
"""Pixels: libjpeg writes no longer one."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """What becomes of an image; all of it is in the manifest."""

    max_size: int | None = None
    """Pixels; an image whose longer side is longer is shrunk to it. None keeps every size."""
    short_side: int | None = None
    """Pixels; an image whose shorter side is longer is shrunk to it. With both, both hold."""
    quality: int = 90
    """JPEG quality of re-encoded images, 1 to 100; FFCV's default."""
    check: str = "codes"
    """Of a JPEG that is copied: `markers` walks its markers, `codes` its Huffman codes too, `decode` decodes too."""

    def __post_init__(self) -> None:
        for option, size in (("--max-size", self.max_size), ("--short-side", self.short_side)):
            if size is not None and size < 1:
                raise UserError(f"{option} {size} is not a size in pixels; give 1 or more")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality} is not a JPEG quality; give 1 to 100")
        if self.check not in CHECKS:
            raise UserError(f"--check {self.check} is no check; give one of {', '.join(CHECKS)}")

    @property
    def may_shrink(self) -> bool:
        """Whether there is a size that an image could be larger than."""
        return self.max_size is not None or self.short_side is not None

    def scale(self, height: int, width: int) -> float:
        """Return by what to multiply the sides of an image; 1 for one that is small enough."""
        return min(
            1.0,
            (self.max_size or height + width) / max(height, width),
            (self.short_side or height + width) / min(height, width),
        )


def encode_image(path: str | Path, settings: ImageSettings) -> EncodedImage:
    """Read an image file and return the bytes that stand for it in a beton.

    Raises:
        UserError: the file is missing, cannot be decoded, is a truncated JPEG, or has more than MAX_PIXELS.
    """
    data = _read(path)
    if not is_jpeg(data):
        return _encode_again(path, *decode_any(path, data), settings)
    size = jpeg_walk.universal_size(data, codes=settings.check != "markers")
    orientation, copy, three_bytes = 1, True, True
    if size is None:  # another kind of JPEG, or a damaged one
        try:
            info = read_markers(data)
            check_pixels(path, info.frame.width * info.frame.height)
            exact = check_scans(data)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{path}: {error}; {REPLACE}") from error
        size, orientation = (info.frame.height, info.frame.width), info.orientation
        copy = info.universal and exact
        three_bytes = len(info.frame.components) == 3 and info.frame.precision == 8
    height, width = size
    check_pixels(path, width * height)
    if copy and settings.scale(height, width) == 1:
        if settings.check == "decode":
            decode_jpeg(path, data)
        return EncodedImage(data, JPEG_MODE, width, height, copied=True)
    pixels = decode_jpeg(path, data) if three_bytes else decode_any(path, data)[0]
    return _encode_again(path, pixels, orientation, settings)


def _encode_again(
    path: str | Path, pixels: Pixels, orientation: int, settings: ImageSettings
) -> EncodedImage:
    """Shrink pixels as the settings ask, turn them upright, and make a JPEG of them."""
    height, width = pixels.shape[:2]
    scale = settings.scale(height, width)
    if scale < 1:
        # Imported here, for that takes a second, and most sets go in as they are.
        from pipelines.conversion.shrink import shrink

        pixels = shrink(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    return _encode(path, upright(pixels, orientation), settings.quality)


def _read(path: str | Path) -> bytes:
    """Return the bytes of a file, by as few calls as can be: they are most of what a copy costs."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            data = os.read(descriptor, size + 1)
            while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
                data += more
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a path that no file system takes
        raise UserError(
            f"{path}: cannot read the image: {getattr(error, 'strerror', None) or error}"
        ) from error
    return data


def header_fault(path: str, size: int) -> str | None:
    """Return what is wrong with a file of `size` bytes as far as its header and its end tell, or None."""
    try:
        if size == 0:
            raise UserError(f"{path}: the file is empty; {REPLACE}")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            start, end = os.pread(descriptor, 3, 0), os.pread(descriptor, 2, max(0, size - 2))
        finally:
            os.close(descriptor)
        if not is_jpeg(start):
            with explained(path), Image.open(path) as image:
                check_pixels(path, image.width * image.height)
        elif end != b"\xff\xd9":  # bytes after the end marker are fine, so where does it end?
            read_markers(_read(path))
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{path}: cannot read the image: {error.strerror}"
    except ValueError as error:
        return f"{path}: {error}; {REPLACE}"
    return None


def _encode(path: str | Path, pixels: Pixels, quality: int) -> EncodedImage:
    height, width = pixels.shape[:2]
    if max(height, width) > LONGEST_SIDE:
        raise UserError(f"{path}: {width} x {height} pixels cannot be written as JPEG; give --max-size")
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    written, data = cv2.imencode(".jpg", pixels, options)
    assert written
    return EncodedImage(data.tobytes(), JPEG_MODE, width, height, copied=False)
