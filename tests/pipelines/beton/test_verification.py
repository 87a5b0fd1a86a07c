"""Any byte of a beton or of its manifest that changes is found, and the image that it lies in is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.beton.reader import BetonFile, open_beton
from pipelines.beton.verification import verify_beton
from pipelines.conversion import convert as conversion
from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import ImageSettings
from pipelines.conversion.settings import ConversionSettings
from pipelines.sources.image_list import read_list
from pipelines.user_error import UserError


@pytest.fixture
def beton(
    tmp_path: Path, make_photographs: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> BetonFile:
    """A beton of 37 photographs, one of them bad and left out, on several pages with zeros between them."""
    monkeypatch.setattr(conversion, "PAGE_SIZE", 1 << 14)
    files = make_photographs(tmp_path / "images", 37)
    files[5].write_bytes(b"bad")
    (tmp_path / "train.txt").write_text("".join(f"{file.name} {i % 3}\n" for i, file in enumerate(files)))
    convert_images(
        read_list(tmp_path / "train.txt"),
        tmp_path / "images",
        tmp_path / "x.beton",
        ConversionSettings(image=ImageSettings(), on_bad="skip"),
    )
    return open_beton(tmp_path / "x.beton")


def faults(path: Path) -> list[str]:
    try:
        return verify_beton(path, decode_all=True, workers=2).faults
    except UserError as error:
        return [str(error)]


def flip(path: Path, place: int, bits: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ bits]))


def test_whole_file(beton: BetonFile) -> None:
    done = verify_beton(beton.path)
    assert (done.faults, done.num_bytes, done.num_decoded) == ([], len(beton.content), 36)


def test_any_flipped_byte_of_the_beton_is_found(beton: BetonFile) -> None:
    assert beton.manifest is not None
    rng = np.random.default_rng(1)
    length = len(beton.content)
    first = beton.manifest.checksums.first_page
    names = beton.manifest.source_paths.offset
    table = length - 24 * beton.num_images
    zeros = np.flatnonzero(np.asarray(beton.content[:table]) == 0)
    places = [
        *range(24),
        *rng.integers(24, first, 30),
        *rng.choice(zeros, 60),
        *rng.integers(first, names, 60),
        *range(table - 16, table),
        *rng.integers(names, table, 30),
        *rng.integers(table, length, 30),
        length - 1,
    ]
    for place in places:
        bits = int(rng.integers(1, 256))
        flip(beton.path, int(place), bits)
        assert faults(beton.path), f"byte {place} ^ {bits}"
        flip(beton.path, int(place), bits)
    assert faults(beton.path) == []


def test_any_flipped_byte_of_the_manifest_is_found(beton: BetonFile) -> None:
    beside = beton.path.with_name("x.beton.json")
    rng = np.random.default_rng(2)
    length = beside.stat().st_size
    for place in [*range(0, length, 7), *range(length - 80, length)]:
        for bits in (1, 0x20, int(rng.integers(1, 256))):
            flip(beside, place, bits)
            assert faults(beton.path), f"byte {place} ^ {bits}"
            flip(beside, place, bits)
    assert faults(beton.path) == []


def test_the_image_of_a_fault_is_named(beton: BetonFile) -> None:
    for i in (0, 17, 35):
        name = f"{i + (i >= 5):05d}.jpg"
        flip(beton.path, int(beton.offsets[i]) + int(beton.sizes[i]) // 2, 4)
        [fault] = faults(beton.path)
        assert re.search(rf"x.beton: image {i} \({name}\) is damaged, in page \d+ ", fault)
        flip(beton.path, int(beton.offsets[i]) + int(beton.sizes[i]) // 2, 4)


def test_zeros_between_images_are_told_apart(beton: BetonFile) -> None:
    ends = beton.offsets + beton.sizes
    gap = int(ends[np.flatnonzero(beton.offsets[1:] > ends[:-1])[0]])
    flip(beton.path, gap, 1)
    [fault] = faults(beton.path)
    assert fault.endswith("is damaged, but none of its images: the zeros after them are")


def test_a_damaged_table_is_named(beton: BetonFile) -> None:
    flip(beton.path, 40, 1)
    assert faults(beton.path) == [f"{beton.path}: the header (with the metadata table) is damaged"]


def test_truncated_longer_and_missing(beton: BetonFile) -> None:
    content = beton.path.read_bytes()
    for changed in (content[:-1], content + b"x"):
        beton.path.write_bytes(changed)
        assert re.search(r"it has [\d,]+ bytes, its manifest says", faults(beton.path)[0])
    beton.path.write_bytes(b"")
    assert "the file is empty" in faults(beton.path)[0]
    beton.path.unlink()
    assert "No such file" in faults(beton.path)[0]
    beton.path.with_name("x.beton.json").unlink()
    assert "cannot read the manifest" in faults(beton.path)[0]


def test_what_was_damaged_before_it_was_written_is_found_by_decoding(
    tmp_path: Path, make_photographs: Callable[..., list[Path]]
) -> None:
    files = make_photographs(tmp_path / "images", 3)
    data = files[1].read_bytes()
    while (table := data.find(b"\xff\xdb")) > 0:  # without quantization tables, which no walk looks at
        data = data[:table] + data[table + 2 + int.from_bytes(data[table + 2 : table + 4], "big") :]
    files[1].write_bytes(data)
    (tmp_path / "train.txt").write_text("".join(f"{file.name} 0\n" for file in files))
    convert_images(
        read_list(tmp_path / "train.txt"),
        tmp_path / "images",
        tmp_path / "x.beton",
        ConversionSettings(image=ImageSettings()),
    )
    [fault] = verify_beton(tmp_path / "x.beton").faults
    assert "image 1 (00001.jpg) cannot be decoded" in fault
    with pytest.raises(UserError, match=r"train.txt:2: .*/00001.jpg: cannot decode the image"):
        convert_images(
            read_list(tmp_path / "train.txt"),
            tmp_path / "images",
            tmp_path / "y.beton",
            ConversionSettings(image=ImageSettings(check="decode")),
        )
