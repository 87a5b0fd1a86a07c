"""The manifest's file: a round trip, and every way in which a hand-edited or foreign one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.beton.manifest import (
    Checksums,
    Manifest,
    Region,
    Shots,
    Source,
    Tables,
    manifest_path,
    read_manifest,
    to_json,
)
from pipelines.user_error import UserError

EXAMPLE = Manifest(
    format_version=2,
    tool_version="0.1.0",
    num_images=142,
    class_counts=[121, 21, 0],
    class_names=["dog", "Käfer", "none"],
    shots=Shots.of(np.array([121, 21, 0])),
    source=Source(kind="list", name="train.txt", sha256="ab" * 32),
    settings={"max_size": None, "quality": 90, "factor": 1.5, "check": True, "side": "longer"},
    source_paths=Region(offset=4096, length=77),
    image_checksums=Region(offset=4176, length=568),
    skipped=3,
    tables=Tables(beton_length=123456, sha256="cd" * 32),
    checksums=Checksums(
        page_size=2048,
        first_page=2048,
        header="1a" * 32,
        pages=["2b" * 32],
        names="3c" * 32,
        allocation_table="4d" * 32,
    ),
    manifest_sha256="",
)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    def make(change: Callable[[dict[str, Any]], object]) -> Path:
        content = json.loads(to_json(EXAMPLE))
        change(content)
        path = tmp_path / "train.beton.json"
        path.write_text(json.dumps(content))
        return path

    return make


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "train.beton.json"
    path.write_text(to_json(EXAMPLE), encoding="utf-8")
    assert read_manifest(path) == EXAMPLE
    assert manifest_path(tmp_path / "train.beton") == path
    assert str(tmp_path) not in to_json(EXAMPLE)
    assert EXAMPLE.shots.rule == "many: more than 100 images, medium: 20 to 100, few: fewer than 20"


def test_shots_by_the_default_rule() -> None:
    shots = Shots.of(np.array([101, 100, 20, 19, 0, 500]))
    assert (shots.many, shots.medium, shots.few) == (2, 2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("settings"), "the manifest lacks settings"),
        (lambda m: m.update(extra=1, path="x"), "the manifest has unknown keys: extra, path"),
        (lambda m: m["source"].pop("sha256"), "source lacks sha256"),
        (lambda m: m["tables"].update(md5="x"), "tables has unknown keys: md5"),
        (lambda m: m.update(num_images="142"), r"num_images has the wrong type \(str\)"),
        (lambda m: m.update(num_images=142.0), r"num_images has the wrong type \(float\)"),
        (lambda m: m.update(num_images=True), r"num_images has the wrong type \(bool\)"),
        (lambda m: m.update(class_counts="x"), r"class_counts has the wrong type \(str\)"),
        (lambda m: m.update(class_counts=[142, None, 0]), r"an item of class_counts has the wrong type"),
        (lambda m: m.update(class_names={"0": "dog"}), r"class_names has the wrong type \(dict\)"),
        (lambda m: m.update(source=[]), r"source has the wrong type \(list\)"),
        (lambda m: m.update(settings={"quality": [90]}), r"settings.quality has the wrong type \(list\)"),
        (lambda m: m.update(class_counts=[121, 20, 0]), r"class_counts do not sum to num_images \(142\)"),
        (lambda m: m.update(class_counts=[143, -1, 0]), r"class_counts do not sum to num_images \(142\)"),
        (lambda m: m.update(class_names=["dog"]), "there are 1 class_names for 3 class_counts"),
        (lambda m: m["source_paths"].update(offset=-1), "source_paths lies outside the file"),
        (lambda m: m["image_checksums"].update(length=4), "image_checksums are not 4 bytes for each of 142"),
        (lambda m: m["checksums"].update(pages=[1]), r"an item of pages has the wrong type \(int\)"),
        (lambda m: m.update(format_version=1), "manifest of format 1, but this fasttail reads format 2"),
        (lambda m: m.update(format_version="2"), "manifest of format '2', but this fasttail reads format 2"),
    ],
)
def test_refused(
    changed: Callable[[Callable[[dict[str, Any]], object]], Path],
    change: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    with pytest.raises(UserError, match=rf"train.beton.json: {message}.*again"):
        read_manifest(changed(change))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.beton.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train.beton.json: not a manifest, for it is not JSON"):
        read_manifest(path)


@pytest.mark.parametrize("content", ["[]", "1", "null", '"text"'])
def test_json_of_another_kind(tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.beton.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"train.beton.json: the manifest has the wrong type"):
        read_manifest(path)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the manifest .No such file.*; bring back the manifest"):
        read_manifest(tmp_path / "none.json")
