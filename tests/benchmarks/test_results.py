"""The table, the JSON and the picture of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.machine import machine, versions
from benchmarks.measurement import CROP_FLIP, row_of
from benchmarks.results import Results, draw, read_json, table, write_json
from pipelines.user_error import UserError

ROWS = [
    row_of(
        [1234.5, 1000, 1300],
        name="ours-cpu",
        metric="pairs_per_second",
        unit="pairs/s",
        augmentation=CROP_FLIP,
    ),
    row_of([0.0123], name="theirs", metric="pairs_per_second", unit="pairs/s", augmentation=CROP_FLIP),
    row_of([0, 0], name="other", metric="cores_used", unit="cores"),
]


def test_the_table_has_a_line_for_each_row_in_columns() -> None:
    header, *lines = table(ROWS).splitlines()
    assert [line.split()[:6] for line in lines] == [
        ["ours-cpu", "pairs_per_second", "1,234", "1,000", "1,300", "3"],
        ["theirs", "pairs_per_second", "0.0123", "0.0123", "0.0123", "1"],
        ["other", "cores_used", "0", "0", "0", "2"],
    ]
    units = [header.index("unit"), *(line.index(row.unit, 50) for line, row in zip(lines, ROWS, strict=True))]
    assert len(set(units)) == 1


def test_the_json_has_the_promised_keys_and_replaces_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("old")
    write_json(path, ROWS, machine(), versions(), "abc")
    content = json.loads(path.read_text())
    assert list(content) == ["rows", "machine", "versions", "commit"]
    assert content["rows"][0] == {
        "name": "ours-cpu",
        "metric": "pairs_per_second",
        "unit": "pairs/s",
        "median": 1234.5,
        "min": 1000,
        "max": 1300,
        "runs": 3,
        "augmentation": "crop-flip",
    }
    assert content["commit"] == "abc"
    assert read_json(path)["rows"] == ROWS
    assert [each.name for each in tmp_path.iterdir()] == ["rows.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{"name": 1}]}', '{"rows": []}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"rows\.json: not the JSON of a benchmark"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json: cannot be read"):
        read_json(tmp_path / "gone.json")


def test_the_picture_grows_with_the_rows(tmp_path: Path) -> None:
    heights = []
    for count in (1, 12):
        rows = [row_of([3, 4], name=f"peer {i}", metric="pairs", unit="pairs/s") for i in range(count)]
        results = Results(title="Pairs", rows=rows, drawn=("pairs",))
        with Image.open(draw(results, machine(), tmp_path / f"{count}.png")) as picture:
            assert picture.format == "PNG"
            heights.append(picture.height)
    assert heights[1] > heights[0] + 11 * 20
