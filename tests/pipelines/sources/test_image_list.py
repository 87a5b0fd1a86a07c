"""The list reader against the real lists, and against a slow reader of its own on made-up ones."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.image_list import ImageList, from_rows, read_class_names, read_list
from pipelines.user_error import UserError


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "train.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(images: ImageList) -> list[tuple[str, int]]:
    return [(images.path(i), int(images.labels[i])) for i in range(len(images))]


@pytest.mark.parametrize(
    ("name", "rows", "classes", "counts"),
    [
        ("ImageNet_LT_test.txt", 50_000, 1000, {50}),
        ("ImageNet_LT_val.txt", 20_000, 1000, {20}),
        ("iNaturalist18_val.txt", 24_426, 8142, {3}),
        ("Places_LT_train.txt", 62_500, 365, None),
    ],
)
def test_real_lists(shared_data: Path, name: str, rows: int, classes: int, counts: set[int] | None) -> None:
    images = read_list(shared_data / name)
    lines = (shared_data / name).read_text().splitlines()
    assert (len(images), images.num_classes, images.labels.dtype) == (rows, classes, np.int32)
    assert counts is None or set(images.class_counts().tolist()) == counts
    for i in (0, 1, rows // 2, rows - 1):
        assert f"{images.path(i)} {images.labels[i]}" == lines[i]
    assert images.sha256 == hashlib.sha256((shared_data / name).read_bytes()).hexdigest()


def test_places_has_the_published_long_tail(shared_data: Path) -> None:
    counts = read_list(shared_data / "Places_LT_train.txt").class_counts()
    assert (counts.max(), counts.min()) == (4980, 5)
    assert [(counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum()] == [
        131,
        163,
        71,
    ]


def test_a_list_as_long_as_inaturalist_reads_in_seconds(shared_data: Path, tmp_path: Path) -> None:
    counts = json.loads((shared_data / "class_counts.json").read_text())["iNaturalist18"]
    path = tmp_path / "inat.txt"
    with path.open("w") as file:
        for label, count in enumerate(counts):
            file.writelines(f"train_val2018/Aves/{label}/{i:032x}.jpg {label}\n" for i in range(count))
    start = time.thread_time()
    images = read_list(path)
    assert time.thread_time() - start < 10
    assert len(images) == 437_513
    assert images.class_counts().tolist() == counts
    assert images.path(437_512) == f"train_val2018/Aves/8141/{counts[-1] - 1:032x}.jpg"
    held = len(images.paths) + images.labels.nbytes + images.starts.nbytes
    assert held < len(images) * 80  # the path itself has 57 bytes or so


@pytest.mark.parametrize(
    "content",
    [
        "a b/c.jpg 1\nd.jpg 0\n",
        "a b/c.jpg 1\nd.jpg 0",
        "a b/c.jpg 1\r\nd.jpg 0\r\n",
        "a b/c.jpg\t1\nd.jpg  0 \n",
        "a b/c.jpg 1\nd.jpg 0\n\n \n\r\n",
        "\ufeffa b/c.jpg 1\nd.jpg 00\n",
    ],
)
def test_forms_of_one_list(tmp_path: Path, content: str) -> None:
    images = read_list(write(tmp_path, content))
    assert rows_of(images) == [("a b/c.jpg", 1), ("d.jpg", 0)]
    assert images.class_names == ["0", "1"]
    assert (images.kind, images.name) == ("list", "train.txt")


def test_duplicates_and_inner_dots_are_allowed(tmp_path: Path) -> None:
    content = "a/../b..c/x.jpg 0\nä.jpg 1\na/../b..c/x.jpg 0\n"
    assert rows_of(read_list(write(tmp_path, content))) == [
        ("a/../b..c/x.jpg", 0),
        ("ä.jpg", 1),
        ("a/../b..c/x.jpg", 0),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b.jpg", r"train.txt:2: a row must be `path label`; the row is 'b.jpg'"),
        (" 1", r"train.txt:2: a row must be `path label`"),
        ("b.jpg -1", r"train.txt:2: the label '-1' is no whole number from 0; the row is 'b.jpg -1'"),
        ("b.jpg 1.0", r"train.txt:2: the label '1.0' is no whole number"),
        ("b.jpg 1_0", r"train.txt:2: the label '1_0' is no whole number"),
        ("b.jpg one", r"train.txt:2: the label 'one' is no whole number"),
        ("b.jpg 1000000", r"train.txt:2: label 1000000 is out of range for 1000000 classes"),
        ("b.jpg " + "9" * 5000, r"train.txt:2: label 9{40} is out of range"),
        ("/b.jpg 0", r"train.txt:2: the path leaves the image root"),
        ("../b.jpg 0", r"train.txt:2: the path leaves the image root"),
        ("a/../../b.jpg 0", r"train.txt:2: the path leaves the image root"),
        ("a\0b.jpg 0", r"train.txt:2: the path holds a control character"),
        ("a\rb.jpg 0", r"train.txt:2: the path holds a control character"),
        (b"\xff.jpg 0", r"train.txt:2: the path is not UTF-8; .* the row is '\\\\xff.jpg 0'"),
        ("", r"train.txt:3: line 2 is blank, but only the end of a list may be"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, row: str | bytes, message: str) -> None:
    encoded = row if isinstance(row, bytes) else row.encode()
    with pytest.raises(UserError, match=message):
        read_list(write(tmp_path, b"a.jpg 0\n" + encoded + b"\nc.jpg 0\n"))


def test_number_of_classes(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jpg 0\nb.jpg 2\n")
    with pytest.raises(UserError, match=r"train.txt:2: label 2 is out of range for 2 classes"):
        read_list(path, num_classes=2)
    with pytest.raises(UserError, match=r"1 of 3 classes have no images: 1; .*--allow-empty-classes"):
        read_list(path)
    with pytest.raises(UserError, match=r"6 of 8 classes have no images: 1, 3, 4, 5, 6, \.\.\.;"):
        read_list(path, num_classes=8)
    with pytest.raises(UserError, match=r"have no images: 1 \(cat\);"):
        read_list(path, class_names=["dog", "cat", "cow"])
    with pytest.raises(UserError, match="2 class names do not fit --num-classes 3"):
        read_list(path, class_names=["dog", "cat"], num_classes=3)
    with pytest.raises(UserError, match="1,000,001 classes are more than"):
        read_list(path, num_classes=1_000_001)
    images = read_list(path, num_classes=4, allow_empty_classes=True)
    assert images.class_counts().tolist() == [1, 0, 1, 0]
    assert read_list(path, class_names=["dog", "cat", "cow"], allow_empty_classes=True).class_names == [
        "dog",
        "cat",
        "cow",
    ]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_list_without_rows(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="the list holds no rows"):
        read_list(write(tmp_path, content))


def test_list_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing.txt: cannot read the list: No such file"):
        read_list(tmp_path / "missing.txt")
    with pytest.raises(UserError, match=r"cannot read the list: Is a directory"):
        read_list(tmp_path)


def test_class_names(tmp_path: Path) -> None:
    assert read_class_names(write(tmp_path, "\ufeffdog\r\nblack bear \n\n")) == ["dog", "black bear"]
    with pytest.raises(UserError, match=r"train.txt:2: a class has no name"):
        read_class_names(write(tmp_path, "dog\n\ncat\n"))
    with pytest.raises(UserError, match=r"train.txt:1: a class has no name"):
        read_class_names(write(tmp_path, ""))
    with pytest.raises(UserError, match="the class names are not UTF-8"):
        read_class_names(write(tmp_path, b"\xff\n"))
    with pytest.raises(UserError, match=r"nowhere: cannot read the class names: No such file"):
        read_class_names(tmp_path / "nowhere")


def test_from_rows_has_the_digest_of_its_file(tmp_path: Path) -> None:
    made = from_rows(["ü/1", "2", "3"], [1, 0, 1], ["a", "b"], kind="digits", name="made")
    read = read_list(write(tmp_path, "ü/1 1\n2 0\n3 1\n"))
    assert rows_of(made) == rows_of(read)
    assert (made.sha256, made.paths, made.starts.tolist()) == (read.sha256, read.paths, read.starts.tolist())


PIECES = st.sampled_from(
    [
        b"a.jpg",
        b" ",
        b"\t",
        b"\n",
        b"\r\n",
        b"0",
        b"1",
        b"7",
        b"-1",
        b"..",
        b"/",
        b"\xff",
        b"\xc3\xa4",
        b"\0",
        b"\r",
    ]
)


@settings(max_examples=400)
@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=30).map(b"".join)))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp(), content)
    try:
        images = read_list(path, allow_empty_classes=True)
    except UserError as error:
        assert str(path) in str(error)
        return
    lines = content.decode("utf-8-sig").split("\n")
    while not lines[-1].strip(" \t\r\n\v\f"):
        lines.pop()
    assert len(images) == len(lines)
    for line, (image, label) in zip(lines, rows_of(images), strict=True):
        assert line.startswith(image)
        assert line[len(image) :].strip(" \t\r\n\v\f").lstrip("0") == (str(label) if label else "")
        assert not image.startswith("/")


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1), st.integers(0, 300)),
        min_size=1,
    )
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]]) -> None:
    rows = [("x" + path.replace("..", "."), label) for path, label in rows]
    text = "".join(f"{path} {label}\n" for path, label in rows)
    images = read_list(write(tmp_path_factory.getbasetemp(), text), allow_empty_classes=True)
    assert rows_of(images) == rows
