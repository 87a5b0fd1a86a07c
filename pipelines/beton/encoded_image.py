"""What a beton holds of an image: its bytes, and what has to be known of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field


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
