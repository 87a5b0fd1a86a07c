"""What a JPEG says of itself, read by walking its markers (ITU-T T.81, annex B), without decoding it.

A JPEG that every decoder takes, the GPU's hardware engine included, can be stored as it is, for its bytes
are better and cheaper than any that we could make. The walk tells which: it sees the frame, the scans, the
colour convention and the orientation, and whether the file ends where a JPEG ends. It steps over whole
segments, so a thumbnail inside an APP segment, which is a JPEG of its own, is never taken for the image.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

BASELINE, PROGRESSIVE = 0xC0, 0xC2
SEQUENTIAL = frozenset({0xC0, 0xC1})
"""Baseline and extended sequential, Huffman-coded."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15; the three codes between them are DHT, JPG and DAC."""
DHT, EOI, SOS, DRI, APP0, APP1, APP14 = 0xC4, 0xD9, 0xDA, 0xDD, 0xE0, 0xE1, 0xEE
WITHOUT_SEGMENT = frozenset({0x01, *range(0xD0, 0xD9)})
"""TEM, the restart markers and SOI stand alone."""

UNIVERSAL_LUMA = frozenset({(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)})
"""Luma's sampling factors (h, v) over chroma's 1 x 1: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1."""

END_OF_CODED_DATA = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""The next marker after a scan: stuffed zeros and restart markers belong to the scan's data."""


@dataclass(frozen=True)
class Frame:
    """A start-of-frame segment."""

    code: int
    """0xC0 is baseline, 0xC2 progressive."""
    precision: int
    """Bits a sample."""
    height: int
    """0 leaves it to a later DNL marker."""
    width: int
    components: tuple[tuple[int, int, int], ...]
    """(identifier, horizontal, vertical sampling factor) of each component."""


@dataclass(frozen=True, kw_only=True)
class JpegInfo:
    """What the markers of one whole JPEG say."""

    frame: Frame
    scans: tuple[int, ...]
    """The number of components of each scan."""
    jfif: bool
    adobe_transform: int | None
    """Of Adobe's APP14: 0 is RGB or CMYK, 1 YCbCr, 2 YCCK; None without the segment."""
    orientation: int
    """Of EXIF, 1 to 8; 1 where there is none or it is nonsense."""

    @property
    def universal(self) -> bool:
        """Whether all decoders see one upright RGB image: baseline, 8 bits, one scan, surely YCbCr."""
        frame = self.frame
        return (
            frame.code == BASELINE
            and frame.precision == 8
            and frame.height > 0
            and frame.width > 0
            and self.scans == (3,)
            and self._surely_ycbcr()
            and self.orientation == 1
        )

    def _surely_ycbcr(self) -> bool:
        identifiers = tuple(identifier for identifier, _, _ in self.frame.components)
        luma, *chroma = [(h, v) for _, h, v in self.frame.components]
        declared = self.jfif or self.adobe_transform == 1 or identifiers == (1, 2, 3)
        usual = luma in UNIVERSAL_LUMA and chroma == [(1, 1), (1, 1)]
        return declared and self.adobe_transform in (None, 1) and usual


def is_jpeg(data: bytes) -> bool:
    """Return whether the bytes start like a JPEG."""
    return data.startswith(b"\xff\xd8\xff")


def read_markers(data: bytes) -> JpegInfo:
    """Walk the markers of a JPEG from start to end marker; bytes after the end are allowed.

    Raises:
        ValueError: it is no JPEG, it breaks off before its end marker, or it is damaged.
    """
    if not is_jpeg(data):
        raise ValueError("no JPEG")
    frame, jfif, adobe_transform, exif = None, False, None, b""
    scans: list[int] = []
    code, segment, position = next_segment(data, 2)
    while code != EOI:
        if code in FRAMES:
            if frame is not None:
                raise ValueError("damaged JPEG: it has two frames")
            frame = read_frame(code, segment)
        elif code == SOS:
            scans.append(segment[0] if segment else 0)
            end = END_OF_CODED_DATA.search(data, position)
            position = end.start() if end else len(data)
        elif code == APP0 and segment.startswith(b"JFIF\0"):
            jfif = True
        elif code == APP14 and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe_transform = segment[11]
        elif code == APP1 and segment.startswith(b"Exif\0\0") and not exif:
            exif = segment[6:]
        code, segment, position = next_segment(data, position)
    if frame is None or not scans:
        raise ValueError("damaged JPEG: it ends without an image")
    return JpegInfo(
        frame=frame,
        scans=tuple(scans),
        jfif=jfif,
        adobe_transform=adobe_transform,
        orientation=exif_orientation(exif),
    )


def exif_orientation(tiff: bytes) -> int:
    """Return the orientation, 1 to 8, of an EXIF block (TIFF header, then directory); 1 if it tells none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112:
                return value if kind == 3 and count == 1 and 1 <= value <= 8 else 1
    except struct.error:  # the block ends early
        return 1
    return 1


def next_segment(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Return the next marker from `position`, the content of its segment, and where that ends."""
    while True:
        if position + 2 > len(data):
            raise ValueError("truncated JPEG: it breaks off before its end marker (EOI)")
        if data[position] != 0xFF:
            raise ValueError(f"damaged JPEG: no marker at byte {position:,}")
        code = data[position + 1]
        if code == 0xFF:  # a fill byte
            position += 1
        elif code in WITHOUT_SEGMENT:
            position += 2
        else:
            break
    if code == EOI:
        return code, b"", position + 2
    length = int.from_bytes(data[position + 2 : position + 4], "big")
    end = position + 2 + length
    if length < 2 or end > len(data):
        raise ValueError("truncated JPEG: it breaks off inside a segment")
    return code, data[position + 4 : end], end


def read_frame(code: int, segment: bytes) -> Frame:
    """Read a start-of-frame segment.

    Raises:
        ValueError: it has not the length that its components need.
    """
    if len(segment) < 6 or len(segment) != 6 + 3 * segment[5]:
        raise ValueError("damaged JPEG: its frame segment has a wrong length")
    precision, height, width, _ = struct.unpack_from(">BHHB", segment)
    rows = [segment[start : start + 3] for start in range(6, len(segment), 3)]
    components = tuple((identifier, factors >> 4, factors & 15) for identifier, factors, _ in rows)
    return Frame(code, precision, height, width, components)
