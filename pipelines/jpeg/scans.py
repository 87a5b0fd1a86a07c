"""Whether the compressed data of any JPEG are whole, and what is wrong where they are not.

`jpeg_walk` says yes to the common kind in microseconds; what it passes over comes here: files with EXIF, grayscale,
CMYK, one scan a component, and everything that is damaged. The scans themselves are walked by `jpeg_entropy`.
"""

from __future__ import annotations

import numpy as np

from pipelines.jpeg import entropy as jpeg_entropy
from pipelines.jpeg.entropy import walk_scan
from pipelines.jpeg.huffman import AC_SLOT, define_tables
from pipelines.jpeg.markers import (
    DHT,
    DRI,
    END_OF_CODED_DATA,
    EOI,
    FRAMES,
    PROGRESSIVE,
    SEQUENTIAL,
    SOS,
    Frame,
    next_segment,
    read_frame,
)
from pipelines.jpeg.walk import thread_tables

_FAULTS = {
    jpeg_entropy.SHORT: "truncated JPEG: its data end before its last block",
    jpeg_entropy.INVALID: "damaged JPEG: a code in its data is none of its Huffman codes",
    jpeg_entropy.RESTART: "damaged JPEG: a restart marker is missing or out of turn",
}


def check_scans(data: bytes) -> bool:
    """Walk the scans of a JPEG that `read_markers` takes; return whether they hold what they should and no more.

    False says that a decoder has to judge: there are data beyond the last block, which does no harm to the image,
    or the file is of a kind that is not walked (progressive, arithmetic coding, 12 bits, tables left out).

    Raises:
        ValueError: the data end early or are damaged.
    """
    tables, content = thread_tables(), np.frombuffer(data, np.uint8)
    tables.defined[:] = 0
    frame, interval, exact = None, 0, True
    missing: set[int] = set()
    code, segment, position = next_segment(data, 2)
    while code != EOI:
        if code in FRAMES:
            frame = read_frame(code, segment)
            if frame.code == PROGRESSIVE:
                check_progression(data, frame, position)
            if not _walkable(frame):
                return False
            missing = {identifier for identifier, _, _ in frame.components}
        elif code == DRI and len(segment) >= 2:
            interval = int.from_bytes(segment[:2], "big")
        elif code == DHT and not define_tables(tables, content, position - len(segment), position):
            raise ValueError("damaged JPEG: a segment of Huffman tables breaks off")
        elif code == SOS:
            plan = _plan(frame, segment) if frame else None
            if plan is None:
                return False
            units, slots = plan
            status, marker = walk_scan(content, position, units, interval, slots, tables)
            if status in _FAULTS:
                raise ValueError(_FAULTS[status])
            if status == jpeg_entropy.UNKNOWN:
                return False
            end = END_OF_CODED_DATA.search(data, int(marker))
            exact = exact and status == jpeg_entropy.WHOLE and end is not None and end.start() == marker
            position = end.start() if end else len(data)
            missing -= set(segment[1 : 1 + 2 * segment[0] : 2])
        code, segment, position = next_segment(data, position)
    if missing:
        raise ValueError(_FAULTS[jpeg_entropy.SHORT])
    return exact


def check_progression(data: bytes, frame: Frame, position: int) -> None:
    """Check that the scans of a progressive JPEG, from `position` on, send every coefficient to its last bit.

    A file that was cut has mostly lost whole scans, for the last ones, with the last bits, are the longest (T.81, G.1).
    A cut within its very last scan is not noticed.

    Raises:
        ValueError: scans are missing.
    """
    lowest = {identifier: bytearray(b"\xff" * 64) for identifier, _, _ in frame.components}
    code, segment, position = next_segment(data, position)
    while code != EOI:
        if code == SOS:
            count = segment[0] if segment else 0
            if len(segment) != 4 + 2 * count:
                return  # a decoder's affair
            first, last, bits = segment[-3], segment[-2], segment[-1] & 15
            for identifier in segment[1:-3:2]:
                if identifier in lowest and first <= last < 64:
                    lowest[identifier][first : last + 1] = bytes([bits]) * (last + 1 - first)
            end = END_OF_CODED_DATA.search(data, position)
            position = end.start() if end else len(data)
        code, segment, position = next_segment(data, position)
    if any(any(bits) for bits in lowest.values()):
        raise ValueError("truncated JPEG: its data end before its last scan")


def _walkable(frame: Frame) -> bool:
    factors = [factor for _, h, v in frame.components for factor in (h, v)]
    usual = len(factors) > 0 and all(1 <= factor <= 4 for factor in factors)
    return frame.code in SEQUENTIAL and frame.precision == 8 and frame.height * frame.width > 0 and usual


def _plan(frame: Frame, segment: bytes) -> tuple[int, np.ndarray] | None:
    """Return the MCUs of a scan and the table slots of an MCU's blocks; None if the frame has no such components."""
    count = segment[0] if segment else 0
    if not 1 <= count <= 4 or len(segment) != 4 + 2 * count:
        return None
    sampling = {identifier: (h, v) for identifier, h, v in frame.components}
    across = max(h for h, _ in sampling.values())
    down = max(v for _, v in sampling.values())
    slots: list[tuple[int, int]] = []
    for identifier, names in zip(segment[1 : 1 + 2 * count : 2], segment[2 : 2 + 2 * count : 2], strict=True):
        h, v = sampling.get(identifier, (0, 0))
        if h == 0 or names >> 4 >= AC_SLOT or names & 15 >= AC_SLOT:
            return None
        slots += [(names >> 4, AC_SLOT + (names & 15))] * (1 if count == 1 else h * v)
    width, height = frame.width, frame.height
    if count == 1:  # not interleaved: the unit is one block, whatever the factors (A.2.2)
        width, height, across, down = -(-width * h // across), -(-height * v // down), 1, 1
    return -(-width // (8 * across)) * -(-height // (8 * down)), np.array(slots, np.uint8)
