"""The pixels of any image file: (H, W, 3) uint8, blue first, decoded and not yet turned upright.

OpenCV decodes the JPEGs of three components, which are nearly all of a set of photographs: the pixels are Pillow's, it
takes and refuses the same files, and it writes straight into one array, where Pillow's go through a copy that costs as
much as the decoding. Everything else goes through Pillow, which knows more kinds of image, and so does a JPEG that
OpenCV refuses, for Pillow says why. Blue first, because OpenCV's encoder takes it so.

Alpha is dropped and colour profiles are ignored, as `Image.convert("RGB")` in the usual loaders does.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.jpeg.markers import exif_orientation
from pipelines.user_error import UserError

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused: Pillow's own limit against decompression bombs."""
REPLACE = "replace the file, or take its row out of the list"

_TOO_LARGE = f"more than {MAX_PIXELS:,} pixels; make the image smaller, or take its row out of the list"

Pixels = NDArray[np.uint8]


def decode_jpeg(path: str | Path, data: bytes) -> Pixels:
    """Return the pixels of a JPEG of three components, 8 bits each, as they lie in the file.

    Raises:
        UserError: it cannot be decoded. Damage that libjpeg merely warns of is not noticed.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return decode_any(path, data)[0] if pixels is None else pixels.astype(np.uint8, copy=False)


def decode_any(path: str | Path, data: bytes) -> tuple[Pixels, int]:
    """Return the pixels of an image of any kind as they lie in the file, and its EXIF orientation.

    Raises:
        UserError: it cannot be decoded, or has more than MAX_PIXELS.
    """
    with explained(path), Image.open(io.BytesIO(data)) as image:
        check_pixels(path, image.width * image.height)
        image.load()  # a TIFF is turned by this, and says so by having no EXIF block any more
        exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
        return np.ascontiguousarray(np.asarray(_to_rgb(image))[:, :, ::-1]), exif_orientation(exif)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn pixels with this EXIF orientation (1 to 8) upright."""
    if orientation >= 5:  # rows and columns are exchanged
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def check_pixels(path: str | Path, pixels: int) -> None:
    """Refuse an image of more than MAX_PIXELS with a `UserError`."""
    if pixels > MAX_PIXELS:
        raise UserError(f"{path}: {_TOO_LARGE}")


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
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
