"""The converter's benchmark at tiny sizes: what it compares is comparable, and its figures are what it says."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pytest
from ffcv.reader import Reader

from benchmarks import convert, size_table, whole_conversion
from benchmarks.converters import CONVERTERS, Task, command
from benchmarks.measurement import find
from benchmarks.peak_memory import run_watched
from benchmarks.photographs import Photographs, made_photographs
from pipelines.beton.reader import open_beton


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    return made_photographs(9, cache=tmp_path_factory.mktemp("cache"))


def task(photographs: Photographs, out: Path, **settings: object) -> Task:
    files = [path.name for path in photographs.files]
    return Task(folder=str(photographs.files[0].parent), files=files, out=str(out), workers=2, **settings)


@pytest.mark.parametrize("max_size", [None, 256])
def test_both_converters_write_the_same_images(
    tmp_path: Path, photographs: Photographs, max_size: int | None
) -> None:
    sizes = {}
    for name, convert_with in CONVERTERS.items():
        convert_with(task(photographs, tmp_path / name, max_size=max_size))
        metadata = Reader(str(tmp_path / name)).metadata["f0"]
        sizes[name] = np.stack([metadata["width"], metadata["height"]], axis=1).astype(int)
    assert sizes["ours"].shape == (9, 2)
    assert np.abs(sizes["ours"] - sizes["ffcv"]).max() <= 1  # it rounds the shorter side down
    assert sizes["ours"].max() == (max_size or 500)


def test_a_converter_runs_as_a_program(tmp_path: Path, photographs: Photographs) -> None:
    wanted = task(photographs, tmp_path / "x.beton", max_size=100)
    watched = run_watched(command("ours", wanted, tmp_path))
    assert open_beton(tmp_path / "x.beton").widths.max() == 100
    assert watched.seconds > 0
    assert watched.peak_memory >= 0  # a busy watcher may not have looked in its short life
    with pytest.raises(RuntimeError, match="KeyError: 'theirs'"):
        run_watched(command("theirs", wanted, tmp_path))


HOLDS = """
import os, sys, time
block = bytearray(os.urandom(1 << 20)) * 100
if os.fork() == 0:
    more = bytearray(os.urandom(1 << 20)) * 50
    open(sys.argv[1], "x").close()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
"""


def test_memory_of_several_processes_counts_shared_pages_once(tmp_path: Path) -> None:
    """They hold it until they have been looked at twice, so once from beginning to end."""
    held, seen, looks = tmp_path / "held", tmp_path / "seen", 0

    def look(_: int) -> None:
        nonlocal looks
        looks += held.exists()
        if looks == 2:
            seen.touch()

    start = time.perf_counter()
    watched = run_watched(["-c", HOLDS, str(held), str(seen)], look=look)
    assert 0.1 < watched.seconds < time.perf_counter() - start + 0.1
    assert 150 <= watched.peak_memory < 200


def test_sizes(tmp_path: Path) -> None:
    rows = size_table.size_rows(tmp_path, 2)
    names = ["--max-size 256", "--max-size 384", "--max-size 500", "--max-size 800", "source of 1024 px"]
    kilobytes = [find(rows, name, "mean_jpeg_kilobytes") for name in names]
    decoding = [find(rows, name, "decode_milliseconds") for name in names]
    medians = [row.median for row in kilobytes if row is not None]
    assert len(medians) == 5
    assert medians == sorted(medians)
    assert all(row is not None and row.median > 0 for row in decoding)
    largest = np.mean([path.stat().st_size for path in tmp_path.glob("large-*.jpg")]) / 1000
    assert kilobytes[-1] is not None
    assert kilobytes[-1].median == pytest.approx(largest)


def test_the_whole_benchmark(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(convert, "RUNS", 2)
    monkeypatch.setattr(convert, "KINDS", (convert.KINDS[0], convert.KINDS[4]))
    monkeypatch.setattr(whole_conversion, "RUNS", 1)
    (tmp_path / "set.txt").write_text("".join(f"some class/{i}.jpg {i % 3}\n" for i in range(14)))
    options = argparse.Namespace(cores=2, images=9, seconds=0.01, beton=None, list=tmp_path / "set.txt")
    results = convert.run(options)
    for workers in (1, 2):
        for kind in convert.KINDS:
            name = kind.name(workers)
            images = find(results.rows, name, "source_images_per_second")
            megabytes = find(results.rows, name, "source_megabytes_per_second")
            size = find(results.rows, "photographs", "mean_jpeg_kilobytes")
            assert images is not None and megabytes is not None and size is not None
            assert images.runs == 2
            assert megabytes.median == pytest.approx(images.median * size.median / 1000)
            times = find(results.rows, name, "times_ffcv")
            assert (times is not None) == (kind.goal is not None)
            if times is not None and kind.goal is not None:
                theirs = find(results.rows, f"ffcv/{kind.goal[0]}/workers {workers}", images.metric)
                assert theirs is not None
                assert images.min / theirs.max <= times.min <= times.max <= images.max / theirs.min
    assert sum("goal" in note for note in results.notes) == 2
    whole = find(results.rows, "ours/whole set of 14 rows", "source_images_per_second")
    assert whole is not None and whole.median > 0
    assert find(results.rows, "ours/whole set of 14 rows/verify", "peak_memory") is not None


def test_a_list_of_places_size_is_made_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: Photographs
) -> None:
    monkeypatch.setattr(whole_conversion, "PLACES_LT", tmp_path / "missing.txt")
    monkeypatch.setattr(whole_conversion, "ROWS", 40)
    monkeypatch.setattr(whole_conversion, "CLASSES", 7)
    whole = whole_conversion.make_whole_set(photographs.files, None, tmp_path)
    files = sorted((tmp_path / "images").rglob("*.jpg"))
    assert (whole.num_rows, len(files)) == (40, 40)
    assert whole.num_bytes == sum(path.stat().st_size for path in files)
    assert "(made, for Places-LT's is not at hand)" in whole_conversion.what(whole)
