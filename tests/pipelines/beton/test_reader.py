"""The reader against stock FFCV's Reader, and against every kind of damage."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from ffcv.fields import FloatField, IntField, RGBImageField
from ffcv.fields.base import Field
from ffcv.reader import Reader
from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType, get_metadata_type
from ffcv.writer import DatasetWriter
from PIL import Image

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import JPEG_MODE, RAW_MODE
from pipelines.beton.reader import open_beton
from pipelines.beton.writer import write_beton
from pipelines.sources.image_list import from_rows
from pipelines.user_error import UserError

# FFCV's writer forks its workers; Python 3.12 warns of that in a process with threads (OpenMP's).
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)

MakeBeton = Callable[..., Path]


@pytest.fixture
def make_beton(tmp_path: Path, make_photographs: Callable[..., list[Path]]) -> MakeBeton:
    """Write a small beton of photographs and raw images, in pages of 32 KiB."""

    def make(name: str = "x.beton", count: int = 30, seed: int = 0) -> Path:
        files = make_photographs(tmp_path / f"photos {name}", count, seed=seed)
        labels = np.random.default_rng(seed).integers(0, 4, count)
        labels[0] = 4
        images = from_rows([file.name for file in files], labels, list("abcdef"), kind="list", name="x.txt")
        encoded = []
        for i, file in enumerate(files):
            with Image.open(file) as photo:
                if i % 7 == 3:
                    small = photo.crop((0, 0, 30 + i, 40))
                    encoded.append(EncodedImage(small.tobytes(), RAW_MODE, 30 + i, 40, copied=False))
                else:
                    encoded.append(EncodedImage(file.read_bytes(), JPEG_MODE, *photo.size, copied=True))
        write_beton(tmp_path / name, images, encoded, settings={}, page_size=32 << 10)
        return tmp_path / name

    return make


class Photos:
    """An indexable data set, as FFCV's writer wants it; defined here so that its workers find it."""

    def __init__(self, values: list[tuple[object, ...]]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> tuple[object, ...]:
        return self.values[i]


def write_with_ffcv(path: Path, fields: Mapping[str, Field], values: list[tuple[object, ...]]) -> None:
    writer = DatasetWriter(str(path), fields, num_workers=2, page_size=2 << 20)
    writer.from_indexed_dataset(Photos(values), chunksize=3)


def without_manifest(path: Path) -> None:
    path.with_name(path.name + ".json").unlink()


def open_quietly(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no manifest", category=UserWarning)
        open_beton(path)


def test_reads_what_ffcv_reads(make_beton: MakeBeton) -> None:
    path = make_beton()
    beton, reader = open_beton(path), Reader(str(path))
    image = reader.metadata["f0"]
    assert (beton.num_images, beton.num_classes, beton.path) == (30, 6, path)
    for ours, stock, dtype in [
        (beton.labels, reader.metadata["f1"], np.int64),
        (beton.heights, image["height"], np.int32),
        (beton.widths, image["width"], np.int32),
        (beton.counts, np.bincount(reader.metadata["f1"], minlength=6), np.int64),
    ]:
        np.testing.assert_array_equal(ours, stock)
        assert ours.dtype == dtype
    assert beton.class_names == list("abcdef")
    assert beton.manifest is not None


def test_image_bytes_are_views_of_the_file(make_beton: MakeBeton, tmp_path: Path) -> None:
    beton = open_beton(make_beton())
    for i, file in enumerate(sorted((tmp_path / "photos x.beton").iterdir())):
        data = beton.image_bytes(i)
        assert np.shares_memory(data, beton.content)
        assert not data.flags.writeable
        if i % 7 == 3:
            with Image.open(file) as photo:
                np.testing.assert_array_equal(data, np.asarray(photo)[:40, : 30 + i])
        else:
            assert data.tobytes() == file.read_bytes()


def test_source_paths(make_beton: MakeBeton) -> None:
    beton = open_beton(make_beton())
    assert [beton.source_path(i) for i in (0, 1, 17, 29)] == [f"{i:05d}.jpg" for i in (0, 1, 17, 29)]
    one = open_beton(make_beton("one.beton", count=1))
    assert one.source_path(0) == "00000.jpg"


def test_damaged_source_paths(make_beton: MakeBeton) -> None:
    path = make_beton()
    region = open_beton(path).manifest.source_paths  # type: ignore[union-attr]
    content = bytearray(path.read_bytes())
    content[region.offset + 9] = ord("x")  # where a newline was
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"source paths inside the file are damaged \(29 for 30 images\)"):
        open_beton(path).source_path(3)


def test_raw_images(tmp_path: Path, make_beton: MakeBeton) -> None:
    assert open_beton(make_beton()).raw_images() is None
    pixels = np.random.default_rng(1).integers(0, 256, (50, 9, 13, 3), dtype=np.uint8)
    rows = from_rows([str(i) for i in range(50)], [0] * 50, ["only"], kind="list", name="x")
    encoded = [EncodedImage(image.tobytes(), RAW_MODE, 13, 9, copied=False) for image in pixels]
    write_beton(tmp_path / "raw.beton", rows, encoded, settings={}, page_size=4096)
    np.testing.assert_array_equal(open_beton(tmp_path / "raw.beton").raw_images(), pixels)
    wide = [*encoded[:-1], EncodedImage(pixels[-1].tobytes(), RAW_MODE, 9, 13, copied=False)]
    write_beton(tmp_path / "wide.beton", rows, wide, settings={}, page_size=4096)
    assert open_beton(tmp_path / "wide.beton").raw_images() is None


@pytest.mark.parametrize("with_manifest", [True, False])
def test_truncated_anywhere(make_beton: MakeBeton, with_manifest: bool) -> None:
    path = make_beton()
    if not with_manifest:
        without_manifest(path)
    content = path.read_bytes()
    lengths = {0, 1, 23, 24, 25, 1000, 2105, 2106, 2107, 3000, len(content) - 24, len(content) - 1}
    lengths |= set(np.random.default_rng(0).integers(0, len(content), 40).tolist())
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"x.beton: (truncated|cannot open the beton: the file is empty)"):
            open_quietly(path)
    path.write_bytes(content + b"\0" * 24)
    with pytest.raises(UserError, match="truncated or damaged: its header says"):
        open_quietly(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 1, r"not a beton of version 2 \(the file says 1\)"),
        ("num_fields", 1, r"holds 1 fields \(image, int\), but two are wanted"),
        ("num_fields", 3, r"holds 3 fields"),
        ("page_size", 0, "damaged header: a page of 0 bytes"),
        ("page_size", 5000, "damaged header: a page of 5000 bytes"),
        ("num_samples", 0, "holds no images"),
        ("num_samples", 29, "truncated or damaged"),
        ("num_samples", 31, "truncated or damaged"),
        ("num_samples", 2**64 - 1, "truncated or damaged"),
        ("alloc_table_ptr", 0, "unfinished: whatever wrote it stopped before the end"),
        ("alloc_table_ptr", 24, "truncated or damaged"),
        ("alloc_table_ptr", 2**64 - 1, "truncated or damaged"),
    ],
)
def test_damaged_header(make_beton: MakeBeton, field: str, value: int, message: str) -> None:
    path = make_beton()
    without_manifest(path)
    content = bytearray(path.read_bytes())
    header = np.frombuffer(content, HeaderType, 1)
    header[field] = value
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"x.beton: {message}"):
        open_quietly(path)


def test_tables_that_overlap(make_beton: MakeBeton) -> None:
    path = make_beton()
    without_manifest(path)
    content = bytearray(path.read_bytes())
    np.frombuffer(content, HeaderType, 1)["alloc_table_ptr"] = 2500
    path.write_bytes(content[: 2500 + 30 * 24])
    with pytest.raises(UserError, match="damaged header: its tables overlap"):
        open_quietly(path)


@pytest.mark.parametrize(
    ("table", "field", "value", "fault"),
    [
        ("image", "data_ptr", 5, "the allocation table names it wrongly"),
        ("allocation", "sample_id", 2**60, "the allocation table names it wrongly"),
        ("allocation", "sample_id", 6, "the allocation table names it wrongly"),
        ("allocation", "size", 0, "the allocation table names it wrongly"),
        ("allocation", "size", 2**63, "it lies outside the pages"),
        ("both", "ptr", 100, "it lies outside the pages"),
        ("both", "ptr", 2**64 - 8, "it lies outside the pages"),
        ("image", "height", 0, "its size in pixels is zero"),
        ("image", "mode", 2, "it is neither JPEG nor raw pixels"),
        ("image", "mode", 1, "its bytes do not fit its size"),
        ("label", "label", -1, "label -1 is no class number"),
        ("label", "label", 2**40, "label 1099511627776 is no class number"),
    ],
)
def test_damaged_tables(make_beton: MakeBeton, table: str, field: str, value: int, fault: str) -> None:
    path = make_beton()
    without_manifest(path)
    content = bytearray(path.read_bytes())
    metadata = np.frombuffer(
        content,
        get_metadata_type([RGBImageField(), IntField()]),
        30,
        HeaderType.itemsize + 2 * FieldDescType.itemsize,
    )
    allocations = np.frombuffer(content, ALLOC_TABLE_TYPE, 30, len(content) - 30 * ALLOC_TABLE_TYPE.itemsize)
    if table == "label":
        metadata["f1"][5] = value
    if table == "image":
        metadata["f0"][field][5] = value
    if table == "both":
        metadata["f0"]["data_ptr"][5] = value
    if table in ("allocation", "both"):
        allocations[field][5] = value
    path.write_bytes(content)
    message = f"x.beton: {fault}" if table == "label" else f"images are wrong, the first is image 5: {fault}"
    with pytest.raises(UserError, match=message):
        open_quietly(path)


def test_any_changed_byte_of_the_tables_is_noticed(make_beton: MakeBeton) -> None:
    path = make_beton()
    content = path.read_bytes()
    tables = 24 + 2 * 1041 + 30 * 24
    places = [
        *range(24),
        24,
        25,
        40,
        41,
        1065,
        1066,
        *range(2106, tables, 13),
        *range(len(content) - 720, len(content), 13),
    ]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 64
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"x\.beton: "):
            open_beton(path)
    path.write_bytes(content)
    open_beton(path)


def test_manifest_of_another_beton(make_beton: MakeBeton) -> None:
    path, other = make_beton(), make_beton("other.beton", seed=1)
    (other.with_name("other.beton.json")).replace(path.with_name("x.beton.json"))
    with pytest.raises(
        UserError, match=r"x.beton: does not fit its manifest x.beton.json: the beton has .* bytes"
    ):
        open_beton(path)


def test_manifest_of_a_beton_of_the_same_length(make_beton: MakeBeton) -> None:
    path = make_beton()
    content = bytearray(path.read_bytes())
    labels = np.frombuffer(content, get_metadata_type([RGBImageField(), IntField()]), 30, 2106)["f1"]
    labels[[0, 1]] = labels[[1, 0]]
    path.write_bytes(content)
    with pytest.raises(UserError, match="the digests of their tables differ"):
        open_beton(path)


def test_edited_manifest(make_beton: MakeBeton) -> None:
    path = make_beton()
    beside = path.with_name("x.beton.json")
    content = json.loads(beside.read_text())

    paths = {**content["source_paths"], "length": content["tables"]["beton_length"]}
    beside.write_text(json.dumps({**content, "source_paths": paths}))
    with pytest.raises(UserError, match="the source paths would lie outside the file"):
        open_beton(path)

    first, second, *others = content["class_counts"]
    beside.write_text(json.dumps({**content, "class_counts": [first + 1, second - 1, *others]}))
    with pytest.raises(UserError, match=r"does not fit its manifest x.beton.json: the class counts differ"):
        open_beton(path)

    beside.write_text(json.dumps({**content, "num_images": "30"}))
    with pytest.raises(UserError, match=r"x.beton.json: num_images has the wrong type"):
        open_beton(path)

    beside.write_text(json.dumps(content))
    open_beton(path)


def test_unfinished_file_of_ffcv(tmp_path: Path) -> None:
    header = np.zeros(1, HeaderType)
    header["version"], header["num_fields"], header["num_samples"], header["page_size"] = 2, 2, 7, 2 << 20
    (tmp_path / "x.beton").write_bytes(header.tobytes() + bytes(10_000))
    with pytest.raises(UserError, match=r"x.beton: unfinished: .* convert it again"):
        open_beton(tmp_path / "x.beton")


@pytest.mark.parametrize(
    "content", [b"a.jpg 0\nb.jpg 1\nc.jpg 2\nd.jpg 4\n", b"\xff\xd8\xff\xe0" + bytes(5000)]
)
def test_foreign_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.beton").write_bytes(content)
    with pytest.raises(
        UserError, match=r"not a beton of version 2 .*; give a file that tools/convert_datasets.py"
    ):
        open_beton(tmp_path / "x.beton")


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.beton: cannot open the beton: No such file"):
        open_beton(tmp_path / "none.beton")
    with pytest.raises(UserError, match=r"cannot open the beton: Is a directory"):
        open_beton(str(tmp_path))


@pytest.mark.parametrize("label_first", [False, True])
def test_beton_of_stock_ffcv(
    tmp_path: Path, make_photographs: Callable[..., list[Path]], label_first: bool
) -> None:
    values: list[tuple[object, ...]] = []
    for i, file in enumerate(make_photographs(tmp_path / "photos", 20)):
        with Image.open(file) as photo:
            values.append((photo.convert("RGB"), i % 3))
    fields = {"picture": RGBImageField("proportion", compress_probability=0.5), "what": IntField()}
    if label_first:
        values, fields = [value[::-1] for value in values], dict(reversed(fields.items()))
    path = tmp_path / "stock.beton"
    write_with_ffcv(path, fields, values)
    with pytest.warns(UserWarning, match=r"stock.beton: no manifest stock.beton.json beside it"):
        beton = open_beton(path)
    assert beton.labels.tolist() == [i % 3 for i in range(20)]
    assert beton.counts.tolist() == [7, 7, 6]
    assert beton.class_names == ["0", "1", "2"]
    assert (beton.manifest, beton.source_path(3), beton.raw_images()) == (None, None, None)
    assert set(beton.modes) == {JPEG_MODE, RAW_MODE}
    for i, value in enumerate(values):
        photo = np.asarray(value[label_first])
        data = beton.image_bytes(i)
        assert (beton.heights[i], beton.widths[i]) == photo.shape[:2]
        if beton.modes[i] == RAW_MODE:
            np.testing.assert_array_equal(data, photo)
        else:
            assert data[:2].tobytes() == b"\xff\xd8"
            assert data[-2:].tobytes() == b"\xff\xd9"


@pytest.mark.parametrize(
    ("fields", "value", "message"),
    [
        (
            {"image": RGBImageField("raw"), "y": FloatField()},
            (np.zeros((4, 4, 3), np.uint8), 0.5),
            r"\(image, float\)",
        ),
        ({"a": IntField(), "b": IntField()}, (0, 1), r"\(int, int\)"),
        (
            {"image": RGBImageField("raw"), "a": IntField(), "b": IntField()},
            (np.zeros((4, 4, 3), np.uint8), 1, 2),
            r"holds 3 fields",
        ),
    ],
)
def test_beton_with_other_fields(
    tmp_path: Path, fields: Mapping[str, Field], value: tuple[object, ...], message: str
) -> None:
    write_with_ffcv(tmp_path / "stock.beton", fields, [value] * 5)
    with pytest.raises(UserError, match=rf"stock.beton: .*{message}.*two are wanted, an image and an int"):
        open_beton(tmp_path / "stock.beton")


def test_opens_as_many_images_as_imagenet_at_once(tmp_path: Path) -> None:
    n = 1_281_167
    metadata = np.zeros(n, get_metadata_type([RGBImageField(), IntField()]))
    start = 4 << 20 << 4
    order = np.random.default_rng(0).permutation(n)
    metadata["f0"]["height"], metadata["f0"]["width"] = 375, 500
    metadata["f0"]["data_ptr"] = start + np.arange(n)
    metadata["f1"] = order % 1000
    header = np.zeros(1, HeaderType)
    header["version"], header["num_fields"], header["page_size"], header["num_samples"] = 2, 2, 8 << 20, n
    header["alloc_table_ptr"] = start + n
    descriptors = np.zeros(2, FieldDescType)
    descriptors["type_id"] = 2, 1
    allocations = np.zeros(n, ALLOC_TABLE_TYPE)
    allocations["sample_id"], allocations["size"] = order, 1
    allocations["ptr"] = metadata["f0"]["data_ptr"][order]
    with (tmp_path / "x.beton").open("wb") as file:
        for part in (header, descriptors, metadata):
            file.write(part.tobytes())
        file.seek(start + n)
        file.write(allocations.tobytes())
    begin = time.thread_time()
    with pytest.warns(UserWarning, match="no manifest"):
        beton = open_beton(tmp_path / "x.beton")
    assert time.thread_time() - begin < 5  # 0.3 s; a Python loop over the samples takes more
    assert beton.num_images == n
    assert beton.counts.tolist() == np.bincount(order % 1000).tolist()
    assert beton.image_bytes(n - 1).shape == (1,)
