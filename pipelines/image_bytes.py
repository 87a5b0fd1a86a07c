"""How one source file becomes the bytes of a sample.

A JPEG that every decoder takes (`JpegInfo.universal`) and that is small enough goes in byte for byte:
nothing is lost and nothing is decoded. Everything else is decoded by Pillow, turned upright, made RGB,
shrunk and encoded again as a baseline JPEG, so that a reader of the beton meets one kind of image only.
Alpha is dropped and colour profiles are ignored, as `Image.convert("RGB")` in the usual loaders does.
"""

from __future__ import annotations

import io
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines import jpeg_walk
from pipelines.beton_format import JPEG_MODE
from pipelines.jpeg_markers import exif_orientation, is_jpeg, read_markers
from pipelines.jpeg_scans import check_scans
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


REPLACE = "replace the file, or take its row out of the list"
CHECKS = ("markers", "decode")

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
    crc32: int = field(init=False)
    """Of the bytes: computed where the image is made, so by the thread that made it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "crc32", zlib.crc32(self.data))


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """What becomes of an image; all of it is in the manifest."""

    max_size: int | None = None
    """Pixels; an image whose longer side is longer is shrunk to it. None keeps every size."""
    short_side: int | None = None
    """Pixels; an image whose shorter side is longer is shrunk to it. With both, both hold."""
    quality: int = 90
    """JPEG quality of re-encoded images, 1 to 100; FFCV's default."""
    check: str = "markers"
    """`markers` walks the markers and codes of a JPEG that is copied, `decode` decodes it as well."""

    def __post_init__(self) -> None:
        for option, size in (("--max-size", self.max_size), ("--short-side", self.short_side)):
            if size is not None and size < 1:
                raise UserError(f"{option} {size} is not a size in pixels; give 1 or more")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality} is not a JPEG quality; give 1 to 100")
        if self.check not in CHECKS:
            raise UserError(f"--check {self.check} is no check; give one of {', '.join(CHECKS)}")

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
    orientation = None
    if is_jpeg(data):
        size = jpeg_walk.universal_size(data)
        if size is None:  # another kind of JPEG, or a damaged one
            try:
                info = read_markers(data)
                _check_pixels(path, info.frame.width * info.frame.height)
                exact = check_scans(data)
            except UserError:
                raise
            except ValueError as error:
                raise UserError(f"{path}: {error}; {REPLACE}") from error
            height, width, orientation = info.frame.height, info.frame.width, info.orientation
            copy = info.universal and exact
        else:
            (height, width), orientation, copy = size, 1, True
        _check_pixels(path, width * height)
        if copy and settings.scale(height, width) == 1:
            if settings.check == "decode":
                _decode(path, data, orientation)
            return EncodedImage(data, JPEG_MODE, width, height, copied=True)
    image = _decode(path, data, orientation)
    scale = settings.scale(image.height, image.width)
    if scale < 1:
        resized = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(resized, Image.Resampling.LANCZOS)
    return _encode(path, image, settings.quality)


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
            with _explained(path), Image.open(path) as image:
                _check_pixels(path, image.width * image.height)
        elif end != b"\xff\xd9":  # bytes after the end marker are fine, so where does it end?
            read_markers(_read(path))
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{path}: cannot read the image: {error.strerror}"
    except ValueError as error:
        return f"{path}: {error}; {REPLACE}"
    return None


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow's warning of a huge image an error, which `encode_image` reports, and silence the others.

    Warnings' filters belong to the process: enter this in the main thread, around the threads that encode.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # corrupt EXIF, odd palettes
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _check_pixels(path: str | Path, pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise UserError(f"{path}: {_TOO_LARGE}")


def _decode(path: str | Path, data: bytes, orientation: int | None) -> Image.Image:
    """Decode to upright RGB; None for the orientation asks the image's own metadata, for it is no JPEG."""
    with _explained(path), Image.open(io.BytesIO(data)) as image:
        _check_pixels(path, image.width * image.height)
        image.load()
        rgb = _to_rgb(image)
        if orientation is None:  # a TIFF has no EXIF block, and Pillow has turned it already
            orientation = exif_orientation(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
    turn = UPRIGHT.get(orientation)
    return rgb if turn is None else rgb.transpose(turn)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Turn whatever Pillow raises into a sentence."""
    try:
        yield
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: {_TOO_LARGE}") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        reason = re.sub(r"<_io\.BytesIO object at \w+>|'[^']*'$", "the file", str(error))
        raise UserError(
            f"{path}: cannot decode the image ({type(error).__name__}: {reason}); {REPLACE}"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image  # `convert` would copy it
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip, not scale
        levels = np.asarray(image).astype(np.int64)
        scaled = (np.clip(levels, 0, 65535) + 128) // 257
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _encode(path: str | Path, image: Image.Image, quality: int) -> EncodedImage:
    image.info.clear()  # comments of the source would go in
    buffer = io.BytesIO()
    try:
        image.save(buffer, "JPEG", quality=quality)
    except (OSError, ValueError) as error:  # sides over 65,500 pixels
        raise UserError(
            f"{path}: {image.width} x {image.height} pixels cannot be written as JPEG; give --max-size"
        ) from error
    return EncodedImage(buffer.getvalue(), JPEG_MODE, image.width, image.height, copied=False)
