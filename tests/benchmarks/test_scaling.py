"""The synthetic beton is one that the reader takes; and the rows of the benchmark are those of its process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scaling_process import measure
from benchmarks.synthetic_beton import CLASSES, long_tailed_labels, write_synthetic_beton
from pipelines.beton.reader import open_beton
from tools.benchmark import main


def test_synthetic_beton_opens_with_its_manifest(tmp_path: Path) -> None:
    write_synthetic_beton(tmp_path / "x.beton", 12_345)
    beton = open_beton(tmp_path / "x.beton")
    assert beton.num_images == 12_345 and beton.num_classes == CLASSES and beton.manifest is not None
    np.testing.assert_array_equal(beton.labels, long_tailed_labels(12_345))
    assert set(beton.heights) == {375} and set(beton.widths) == {500}
    assert (np.diff(beton.offsets) == beton.sizes[:-1]).all()


def test_labels_have_a_long_tail() -> None:
    counts = np.bincount(long_tailed_labels(3_000_000), minlength=CLASSES)
    assert abs(counts[:10].sum() / counts[-10:].sum() / 256 - 1) < 0.2
    assert (counts > 0).all()


def test_a_process_says_what_it_measured(tmp_path: Path) -> None:
    write_synthetic_beton(tmp_path / "x.beton", 5000)
    found = measure(tmp_path / "x.beton", 8, 0.01)
    assert found["open_seconds"] > 0 and found["build_seconds"] > 0
    assert len(found["crop-flip"]) == 5 and min(found["crop-flip"]) > 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.scaling.STARTS", 1)
    arguments = ["--largest", "10000", "--images", "16", "--seconds", "0.01", "--folder", str(tmp_path)]
    outputs = ["--json", str(tmp_path / "x.json"), "--picture", str(tmp_path / "x.png")]
    assert main(["scaling", *arguments, *outputs]) == 0
    rows = {
        (row["name"], row["metric"]): row for row in json.loads((tmp_path / "x.json").read_text())["rows"]
    }
    assert rows["10,000 images", "draws_of_a_step"]["median"] > 0
    assert rows["start of a process", "start_seconds"]["runs"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.png"]
