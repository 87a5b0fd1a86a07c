"""iNaturalist's own annotation files as a list of images: `train2018.json` and its relatives need no list.

They have COCO's form, `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "category_id"}],
"categories": [{"id", "name"}]}`, other keys aside. Labels are the category ids in order, 0 to C-1: for iNaturalist
2018 that is the id itself, as in the lists of the long-tail literature. Images stand in the file's order.

What is not needed is dropped while the file is parsed: a JSON object of an image has ten keys, and half a
million of them as dictionaries would take a gigabyte.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.sources.image_list import MAX_CLASSES, ImageList, check_no_empty_class, check_path, from_rows
from pipelines.user_error import UserError

PARTS = ("images", "annotations", "categories")


class _Row(NamedTuple):
    """What is kept of a JSON object: None where the key is missing."""

    id: Any
    file_name: Any
    image_id: Any
    category_id: Any
    name: Any


def read_inaturalist_json(path: Path, *, allow_empty_classes: bool = False) -> ImageList:
    """Read an annotation file; peak memory is about twice the file's size plus 250 bytes a row.

    Raises:
        UserError: the file cannot be read, is not JSON or not of this form; an id is no whole number, or stands
            twice; an annotation names an unknown image or category; an image has no annotation, or two; a path
            leaves the image root; a category has no images (unless allowed).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the annotations: {error.strerror}") from error
    try:
        images, annotations, categories = _parse(data)
        label_of, names = _labels(categories)
        paths = _paths(images)
        labels = _image_labels(annotations, paths, label_of)
    except ValueError as error:
        raise UserError(f"{path}: {error}; download the file again, or correct it") from error
    made = from_rows(
        paths.values(),
        labels,
        names,
        kind="inaturalist-json",
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    if not allow_empty_classes:
        check_no_empty_class(path, made)
    return made


def _parse(data: bytes) -> list[list[_Row]]:
    try:
        content = json.loads(data, object_hook=_keep_needed)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not an annotation file, for it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"not an annotation file, for it has none of the keys {', '.join(PARTS)}")
    for part in PARTS:
        rows = content.get(part)
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"the key {part!r} is missing, no list or empty")
        bad = next((i for i, row in enumerate(rows) if not isinstance(row, _Row)), None)
        if bad is not None:
            raise ValueError(f"{part}[{bad}] is no object with the keys of this part")
    return [content[part] for part in PARTS]


def _keep_needed(item: dict[str, Any]) -> dict[str, Any] | _Row:
    if any(part in item for part in PARTS):
        return item
    get = item.get
    return _Row(get("id"), get("file_name"), get("image_id"), get("category_id"), get("name"))


def _labels(categories: list[_Row]) -> tuple[dict[int, int], list[str]]:
    """Return the label of each category id, and the names in the order of the labels."""
    names: dict[int, str] = {}
    for i, category in enumerate(categories):
        where = f"categories[{i}]"
        key = _whole_number(category.id, where, "id")
        if key in names:
            raise ValueError(f"{where}: the id {key} stands twice")
        names[key] = _text(category.name, where, "name")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{len(names):,} categories are more than the {MAX_CLASSES:,} that a set may have")
    ids = sorted(names)
    return {key: label for label, key in enumerate(ids)}, [names[key] for key in ids]


def _paths(images: list[_Row]) -> dict[int, str]:
    """Return the path of each image id, in the file's order."""
    paths: dict[int, str] = {}
    for i, image in enumerate(images):
        where = f"images[{i}]"
        key = _whole_number(image.id, where, "id")
        if key in paths:
            raise ValueError(f"{where}: the id {key} stands twice")
        paths[key] = _text(image.file_name, where, "file_name")
        try:
            check_path(paths[key].encode())
        except ValueError as error:
            raise ValueError(f"{where}: {paths[key]!r}: {error}") from error
    return paths


def _image_labels(annotations: list[_Row], paths: dict[int, str], label_of: dict[int, int]) -> list[int]:
    """Return the label of each image, in the order of `paths`."""
    labels: dict[int, int] = {}
    for i, annotation in enumerate(annotations):
        where = f"annotations[{i}]"
        image = _whole_number(annotation.image_id, where, "image_id")
        category = _whole_number(annotation.category_id, where, "category_id")
        if image not in paths:
            raise ValueError(f"{where} is of the image {image}, which is not among the images")
        if category not in label_of:
            raise ValueError(f"{where} is of the category {category}, which is not among the categories")
        if image in labels:
            raise ValueError(f"{where}: the image {image} has two annotations, but an image has one class")
        labels[image] = label_of[category]
    if len(labels) < len(paths):
        first = next(key for key in paths if key not in labels)
        raise ValueError(
            f"{len(paths) - len(labels)} images have no annotation, the first {first} ({paths[first]})"
        )
    return [labels[key] for key in paths]


def _whole_number(value: Any, where: str, key: str) -> int:
    if type(value) is not int:  # not isinstance: True is no id
        raise ValueError(f"{where}: {key!r} is missing or no whole number")
    return value


def _text(value: Any, where: str, key: str) -> str:
    if not isinstance(value, str) or not value.strip() or any(mark in value for mark in "\n\r\0"):
        raise ValueError(f"{where}: {key!r} is missing, empty or no text of one line")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {key!r} holds half a character (a lone surrogate)") from None
    return value
