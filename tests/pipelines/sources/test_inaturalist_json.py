"""The annotation reader against a plain one, and on files that are damaged in every way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.inaturalist_json import read_inaturalist_json
from pipelines.user_error import UserError

SET = {
    "info": {"year": 2018, "nested": [{"id": 1}]},
    "images": [
        {
            "id": 7,
            "file_name": "train_val2018/Aves/2/é f.jpg",
            "width": 800,
            "license": 3,
            "rights_holder": "x",
        },
        {"id": 3, "file_name": "train_val2018/Aves/5/b.jpg"},
        {"id": 9, "file_name": "train_val2018/Aves/2/c.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 5},
        {"id": 2, "image_id": 9, "category_id": 2},
        {"id": 3, "image_id": 7, "category_id": 2},
    ],
    "categories": [{"id": 5, "name": "Grus grus", "supercategory": "Aves"}, {"id": 2, "name": "Ardea alba"}],
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "train2018.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def changed(*keys: Any, to: Any) -> Any:
    """SET with the value at `keys` replaced."""
    content = json.loads(json.dumps(SET))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return content


def test_reads_images_in_order_with_dense_labels(tmp_path: Path) -> None:
    path = write(tmp_path, SET)
    images = read_inaturalist_json(path)
    rows = [(images.path(i), int(images.labels[i])) for i in range(len(images))]
    assert rows == [
        ("train_val2018/Aves/2/é f.jpg", 0),
        ("train_val2018/Aves/5/b.jpg", 1),
        ("train_val2018/Aves/2/c.jpg", 0),
    ]
    assert images.class_names == ["Ardea alba", "Grus grus"]
    assert (images.kind, images.name) == ("inaturalist-json", "train2018.json")
    assert images.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "none of the keys images, annotations, categories"),
        ({"id": 3}, "none of the keys"),
        ({**SET, "images": []}, "the key 'images' is missing, no list or empty"),
        ({"images": SET["images"], "categories": SET["categories"]}, "the key 'annotations' is missing"),
        ({**SET, "categories": {"id": 1}}, "the key 'categories' is missing, no list or empty"),
        (changed("images", 1, to=5), r"images\[1\] is no object"),
        (changed("images", 2, to={"images": []}), r"images\[2\] is no object"),
        (changed("images", 1, "id", to=7), r"images\[1\]: the id 7 stands twice"),
        (changed("images", 1, "id", to="3"), r"images\[1\]: 'id' is missing or no whole number"),
        (changed("images", 1, "id", to=True), r"images\[1\]: 'id' is missing or no whole number"),
        (changed("images", 0, "file_name", to=None), r"images\[0\]: 'file_name' is missing"),
        (changed("images", 0, "file_name", to="a\nb"), r"images\[0\]: 'file_name' .* one line"),
        (changed("images", 0, "file_name", to="\ud800"), r"images\[0\]: 'file_name' holds half a character"),
        (changed("images", 0, "file_name", to="../a.jpg"), r"images\[0\]: .* leaves the image root"),
        (changed("images", 0, "file_name", to="/a.jpg"), r"images\[0\]: .* leaves the image root"),
        (
            changed("annotations", 1, "image_id", to=4),
            r"annotations\[1\] is of the image 4, which is not among",
        ),
        (
            changed("annotations", 1, "category_id", to=4),
            r"annotations\[1\] is of the category 4, which is not",
        ),
        (changed("annotations", 1, "image_id", to=3), r"annotations\[1\]: the image 3 has two annotations"),
        (
            changed("annotations", 1, "category_id", to=2.0),
            r"annotations\[1\]: 'category_id' is missing or no",
        ),
        (
            {**SET, "annotations": SET["annotations"][:2]},
            r"1 images have no annotation, the first 7 \(train_",
        ),
        (changed("categories", 0, "id", to=2), r"categories\[1\]: the id 2 stands twice"),
        (changed("categories", 0, "name", to=""), r"categories\[0\]: 'name' is missing, empty"),
        (
            {**SET, "categories": [*SET["categories"], {"id": 6, "name": "x"}]},
            r"1 of 3 classes have no images: 2 \(x\)",
        ),
    ],
)
def test_files_that_are_no_set(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"train2018.json: .*{message}"):
        read_inaturalist_json(write(tmp_path, content))


def test_empty_classes_may_be_allowed(tmp_path: Path) -> None:
    path = write(tmp_path, {**SET, "categories": [*SET["categories"], {"id": 6, "name": "x"}]})
    assert read_inaturalist_json(path, allow_empty_classes=True).class_counts().tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"path 1\n", b'{"a": 1' + b"0" * 5000]
)
def test_not_json(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"bad.json: not an annotation file, for it is not JSON .* download"):
        read_inaturalist_json(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.json: cannot read the annotations: No such file"):
        read_inaturalist_json(tmp_path / "none.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["images", "annotations", "categories", "id", "image_id", "category_id", "name", "file_name"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@settings(max_examples=150)
@given(keys=st.lists(st.integers(0, 10), max_size=3), value=VALUES)
def test_any_value_anywhere_is_read_or_refused(tmp_path: Path, keys: list[int], value: Any) -> None:
    content = json.loads(json.dumps(SET))
    inner: Any = content
    for key in keys[:-1]:  # go down to some place of the file, and put something else there
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        step = inner[places[key % len(places)]]
        if not isinstance(step, dict | list) or not step:
            break
        inner = step
    if keys:
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        inner[places[keys[-1] % len(places)]] = value
    else:
        content = value
    read_or_refused(write(tmp_path, content))


@settings(max_examples=150)
@given(start=st.integers(0, 600), length=st.integers(0, 40), put=st.binary(max_size=20))
def test_any_damage_is_read_or_refused(tmp_path: Path, start: int, length: int, put: bytes) -> None:
    path = write(tmp_path, SET)
    data = path.read_bytes()
    path.write_bytes(data[:start] + put + data[start + length :])
    read_or_refused(path)


def read_or_refused(path: Path) -> None:
    try:
        images = read_inaturalist_json(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        content = json.loads(path.read_bytes())
        label_of = {category["id"]: category["name"] for category in content["categories"]}
        name_of = {image["id"]: image["file_name"] for image in content["images"]}
        expected = {(name_of[a["image_id"]], label_of[a["category_id"]]) for a in content["annotations"]}
        names = images.class_names
        assert {(images.path(i), names[images.labels[i]]) for i in range(len(images))} == expected


MEASURE = """
import resource, sys
from pathlib import Path
from pipelines.sources.inaturalist_json import read_inaturalist_json
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images = read_inaturalist_json(Path(sys.argv[1]))
print(len(images), images.num_classes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_at_the_size_of_inaturalist_2018(tmp_path: Path) -> None:
    path, rows, classes = tmp_path / "train2018.json", 437_513, 8142
    image = '{"license": 3, "file_name": "train_val2018/Insecta/%d/%032x.jpg", "rights_holder": "Susan J. Hewitt",'
    image += ' "height": 600, "width": 800, "id": %d}'
    annotation = '{"id": %d, "image_id": %d, "category_id": %d}'
    category = '{"id": %d, "name": "species %d", "supercategory": "Insecta"}'
    with path.open("w") as file:
        file.write('{"images": [' + ", ".join(image % (i % classes, i, i) for i in range(rows)))
        file.write('], "annotations": [' + ", ".join(annotation % (i, i, i % classes) for i in range(rows)))
        file.write('], "categories": [' + ", ".join(category % (c, c) for c in range(classes)) + "]}")
    command = [sys.executable, "-c", MEASURE, path]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    images, found, kilobytes = map(int, done.stdout.split())
    assert (images, found) == (rows, classes)
    assert kilobytes * 1024 < 2.2 * path.stat().st_size + 300 * rows
