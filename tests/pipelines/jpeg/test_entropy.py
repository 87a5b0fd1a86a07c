"""The walk of the compressed data against one written down bit by bit, on whole, cut and damaged scans."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.jpeg.entropy import INVALID, RESTART, SHORT, SPARE, UNKNOWN, WHOLE, walk_scan
from pipelines.jpeg.huffman import define_tables, new_tables


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


class Scan:
    """A JPEG of one scan, taken apart."""

    def __init__(self, data: bytes) -> None:
        self.data, self.codes, self.interval, self.dht = data, {}, 0, []
        position, code = 2, 0
        while code != 0xDA:
            code, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
            segment = data[position + 4 : position + 2 + length]
            if code == 0xC4:
                self.dht.append((position + 4, position + 2 + length))
                self._read_codes(segment)
            elif code == 0xDD:
                self.interval = int.from_bytes(segment, "big")
            elif code == 0xC0:
                frame = segment
            position += 2 + length
        self.start = position
        height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
        factors = [divmod(frame[7 + 3 * c], 16) for c in range(frame[5])] if frame[5] > 1 else [(1, 1)]
        across, down = (8 * max(pair[axis] for pair in factors) for axis in (0, 1))
        self.units = -(-width // across) * -(-height // down)
        self.blocks = [
            divmod(segment[2 + 2 * c], 16) for c, (h, v) in enumerate(factors) for _ in range(h * v)
        ]

    def _read_codes(self, segment: bytes) -> None:
        while segment:
            code, place = 0, 17
            for length in range(1, 17):
                for _ in range(segment[length]):
                    self.codes[segment[0] >> 4, segment[0] & 15, f"{code:0{length}b}"] = segment[place]
                    code, place = code + 1, place + 1
                code <<= 1
            segment = segment[place:]

    def fast(self, data: bytes) -> tuple[int, int]:
        content, tables = np.frombuffer(data, np.uint8), new_tables()
        for start, end in self.dht:
            assert define_tables(tables, content, start, end)
        slots = np.array([(dc, 4 + ac) for dc, ac in self.blocks], np.uint8)
        return walk_scan(content, self.start, self.units, self.interval, slots, tables)

    def slow(self, data: bytes) -> int:
        """The status, by T.81's figures: a bit at a time."""
        position, spare = self.start, False
        left = self.units
        for restart in range(10**9):
            units = min(left, self.interval or left)
            end = position
            while end + 1 < len(data) and not (data[end] == 255 and data[end + 1] != 0):
                end += 2 if data[end] == 255 else 1
            if end + 1 == len(data) and data[end] != 255:
                end += 1
            raw = data[position:end].replace(b"\xff\0", b"\xff")
            status, used = self._blocks("".join(f"{byte:08b}" for byte in raw), units * len(self.blocks))
            if status != WHOLE:
                return status
            spare, left = spare or 8 * len(raw) - used >= 8, left - units
            if left == 0:
                return SPARE if spare else WHOLE
            while data[end + 1 : end + 2] == b"\xff":
                end += 1
            marker = data[end + 1] if end + 1 < len(data) else 0
            if marker != 0xD0 + restart % 8:
                return RESTART if 0xD0 <= marker <= 0xD7 else SHORT
            position = end + 2
        raise AssertionError

    def _blocks(self, bits: str, count: int) -> tuple[int, int]:
        used = 0
        for block in range(count):
            names, k = self.blocks[block % len(self.blocks)], 0
            while k < 64:
                kind = int(k > 0)
                length = next(
                    (n for n in range(1, 17) if (kind, names[kind], bits[used : used + n]) in self.codes), 0
                )
                if length == 0:
                    return (SHORT if len(bits) - used < 16 else INVALID), used
                symbol = self.codes[kind, names[kind], bits[used : used + length]]
                used += length + (symbol & 15)
                k += (symbol >> 4) + 1
                if kind and symbol == 0:
                    k = 64
                if k > 64 or (kind and symbol & 15 == 0 and symbol not in (0, 0xF0)):
                    return (SHORT if used > len(bits) else INVALID), used
            if used > len(bits):
                return SHORT, used
        return WHOLE, used


def noisy(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture with long and short blocks: noise that fades to the right."""
    rng = np.random.default_rng(seed)
    fade = np.linspace(1, 0, width)[None, :, None]
    levels = 128 + fade * rng.normal(0, 60, (height, width, 3))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert(mode)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:2:0": ("RGB", {}),
    "4:4:4, every coefficient": ("RGB", {"subsampling": "4:4:4", "quality": 100}),
    "4:2:2": ("RGB", {"subsampling": "4:2:2", "quality": 30}),
    "own tables": ("RGB", {"optimize": True, "quality": 97}),
    "restart markers": ("RGB", {"restart_marker_blocks": 1}),
    "few restart markers": ("RGB", {"restart_marker_blocks": 5, "quality": 90}),
    "grayscale": ("L", {}),
    "CMYK": ("CMYK", {"quality": 90}),
}


@pytest.fixture(params=KINDS)
def scan(request: pytest.FixtureRequest) -> Scan:
    mode, options = KINDS[request.param]
    return Scan(saved(noisy(29, 75, mode=mode), **options))


def test_whole_scans(scan: Scan) -> None:
    assert scan.fast(scan.data) == (WHOLE, len(scan.data) - 2)
    assert scan.slow(scan.data) == WHOLE
    assert scan.fast(scan.data + b"\xff\xd9 and more") == (WHOLE, len(scan.data) - 2)
    filled = scan.data[:-2] + b"\xff\xff\xff\xd9"
    assert scan.fast(filled) == (WHOLE, len(filled) - 2)


def test_every_cut_is_noticed(scan: Scan) -> None:
    for end in range(scan.start, len(scan.data) - 2):
        cut = scan.data[:end] + b"\xff\xd9"
        if cut[end - 1] == 0xFF:  # it would stand before the end marker as a fill byte
            continue
        assert scan.fast(cut)[0] == SHORT, end
        assert scan.fast(scan.data[:end])[0] == SHORT, end


def test_data_beyond_the_last_block(scan: Scan) -> None:
    for more in (b"\0", b"\xa5\xff\0", bytes(20)):
        data = scan.data[:-2] + more + b"\xff\xd9"
        assert scan.fast(data) == (SPARE, len(data) - 2)
        assert scan.slow(data) == SPARE


def test_restart_markers(photo: Image.Image) -> None:
    scan = Scan(saved(photo, restart_marker_blocks=2))
    third = scan.data.index(b"\xff\xd2")
    turned = scan.data[:third] + b"\xff\xd3" + scan.data[third + 2 :]
    assert scan.fast(turned) == (RESTART, third)
    fourth = scan.data.index(b"\xff\xd3")
    assert scan.fast(scan.data[:third] + scan.data[fourth:])[0] == RESTART  # an interval is lost
    assert scan.fast(scan.data[:third] + scan.data[third + 2 :])[0] not in (WHOLE, SPARE)
    assert scan.fast(scan.data[:third] + b"\xff\xd9")[0] == SHORT


def test_tables_that_are_none(photo: Image.Image) -> None:
    scan = Scan(saved(photo))
    content, slots = np.frombuffer(scan.data, np.uint8), np.array([[0, 4]], np.uint8)
    assert walk_scan(content, scan.start, 1, 0, slots, new_tables())[0] == UNKNOWN
    for counts, symbols in [
        (b"\3" + bytes(15), b"abc"),  # more codes of one bit than there are
        (b"\2" + bytes(15), b"ab"),  # all ones is no code
        (b"\1" + bytes(15), b"\x1f"),  # no DC category
    ]:
        tables = new_tables()
        segment = np.frombuffer(b"\0" + counts + symbols, np.uint8)
        assert define_tables(tables, segment, 0, len(segment))
        assert not tables.defined.any()
    for broken in (b"\0" + bytes(15), b"\x20" + bytes(16), b"\x04" + bytes(16), b"\0\1" + bytes(15)):
        assert not define_tables(new_tables(), np.frombuffer(broken, np.uint8), 0, len(broken))


def test_tables_of_the_image_before_are_not_used_again() -> None:
    """Two files whose tables differ, walked in turn with the tables of one thread."""
    scans = [Scan(saved(noisy(40, 56, seed), optimize=True, quality=60 + 10 * seed)) for seed in range(3)]
    tables = new_tables()
    for scan in scans * 2:
        content = np.frombuffer(scan.data, np.uint8)
        tables.defined[:] = 0
        for start, end in scan.dht:
            define_tables(tables, content, start, end)
        slots = np.array([(dc, 4 + ac) for dc, ac in scan.blocks], np.uint8)
        assert walk_scan(content, scan.start, scan.units, 0, slots, tables)[0] == WHOLE


def test_damage_is_judged_as_bit_by_bit(scan: Scan) -> None:
    rng = np.random.default_rng(6)
    found = set()
    for _ in range(100):
        data = bytearray(scan.data)
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(scan.start, len(data) - 2)
            data[place] = rng.choice([data[place] ^ (1 << rng.integers(8)), 0xFF, 0, rng.integers(256)])
        wanted = scan.slow(bytes(data))
        assert scan.fast(bytes(data))[0] == wanted
        found.add(wanted)
    assert len(found) > 1


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(KINDS)),
    st.binary(max_size=300),
    st.integers(0, 300),
    st.one_of(st.none(), st.binary(min_size=17, max_size=120)),
    st.integers(0, 5000),
    st.integers(0, 9),
)
def test_hostile_data_end(
    kind: str, noise: bytes, place: int, tables_segment: bytes | None, units: int, interval: int
) -> None:
    """Any bytes, any tables, any number of blocks: an answer, and no place outside the file."""
    mode, options = KINDS[kind]
    scan = Scan(saved(noisy(16, 24, mode=mode), **options))
    data = scan.data[: scan.start + place] + noise
    content, tables = np.frombuffer(data, np.uint8), new_tables()
    for start, end in scan.dht:
        define_tables(tables, content, start, end)
    if tables_segment is not None:
        define_tables(tables, np.frombuffer(tables_segment, np.uint8), 0, len(tables_segment))
    slots = np.array([(dc, 4 + ac) for dc, ac in scan.blocks], np.uint8)
    status, end = walk_scan(content, min(scan.start, len(data)), max(1, units), interval, slots, tables)
    assert status in (WHOLE, SPARE, SHORT, INVALID, RESTART, UNKNOWN)
    assert 0 <= end <= len(data)


def test_a_huge_frame_ends_with_its_data() -> None:
    """What a hostile frame promises costs nothing: the walk is over when the data are."""
    scan = Scan(saved(noisy(16, 24)))
    slots = np.array([[0, 4]], np.uint8)
    content, tables = np.frombuffer(scan.data, np.uint8), new_tables()
    for start, end in scan.dht:
        define_tables(tables, content, start, end)
    assert walk_scan(content, scan.start, 2**40, 0, slots, tables)[0] in (SHORT, INVALID)
