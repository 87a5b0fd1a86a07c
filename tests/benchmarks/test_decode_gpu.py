"""The lines that `decode` prints for a GPU are a configuration, and its feed gives the loader's views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks.dali_trial import refusal_of_dali
from benchmarks.decode_candidates import METRIC
from benchmarks.decode_gpu import Grid, cpu_candidate, dali_candidate, sweep_gpu, thread_choices
from benchmarks.decoded_pixels import DECODERS, difference_rows, libjpeg_squares, rows_of
from benchmarks.photographs import Photographs
from benchmarks.progress import Progress
from benchmarks.staged_feeds import Staged, open_staged_views
from training.command_line import build_parser


@pytest.mark.parametrize(
    ("decode", "threads"), [("dali-gpu", {}), ("split:0.25", {"threads": 2}), ("cpu", {"threads": 2})]
)
def test_the_lines_are_settings_of_a_run(few: Photographs, decode: str, threads: dict[str, int]) -> None:
    if decode == "cpu":
        candidate, of_dali = cpu_candidate(few.beton, 2, 4), {}
    else:
        candidate = dali_candidate(few.beton, 2, (0.8, 100_000, 12, 4), decode)
        of_dali = {"dali": {"threads": 12, "hardware_share": 0.8, "huffman_threshold": 100_000}}
    assert candidate.name == f"best/{decode}"
    lines = yaml.safe_load(candidate.yaml)
    assert lines == {"data": {"decode": decode, "prefetch": 4, **threads}, **of_dali}
    help_text = build_parser("x", "x").format_help()
    assert all(f"--{group}.{name} " in help_text for group, values in lines.items() for name in values)


def test_differences_of_pixels_are_summed_up_over_all_samples() -> None:
    reference = np.full((10, 20, 25, 3), 100, np.uint8)
    pixels = reference.copy()
    pixels[0, 0, :, 0] = 90  # 25 of 15,000 samples
    pixels[1] = 101  # a tenth of them
    mean, p99, largest = rows_of("some", pixels, reference)
    assert mean.median == pytest.approx(25 * 10 / 15000 + 0.1)
    assert (p99.median, largest.median, largest.unit) == (1, 10, "levels")


def test_decoders_are_compared_on_pixels_that_nothing_resized(few: Photographs) -> None:
    """DALI's CPU decoder is libjpeg-turbo too; a crop that is off by a pixel would differ by much more."""
    rows = {row.metric: row for row in difference_rows(few.beton, 2, torch.device("cpu"), [])}
    assert rows["largest_difference"].median == 0
    assert rows["mean_difference"].name == "pixels/DALI on the CPU"
    indices = np.arange(3)
    corners = np.array([[10, 20], [0, 3], [7, 0]])
    for square, path, (y, x) in zip(
        libjpeg_squares(few.beton, indices, corners, 300), few.files, corners, strict=False
    ):
        with Image.open(path) as photograph:
            assert np.array_equal(square, np.asarray(photograph)[y : y + 300, x : x + 300])


def test_a_decoder_that_fails_has_a_line_instead_of_rows(few: Photographs) -> None:
    """Here all three do, unless there is a GPU: the others are measured all the same, and the benchmark goes on."""
    notes: list[str] = []
    rows = difference_rows(few.beton, 1, torch.device("cuda"), notes)
    assert {note.partition(" failed: ")[0] for note in notes} | {
        row.name.removeprefix("pixels/") for row in rows
    } == set(DECODERS)
    assert len(notes) + len(rows) / 3 == 3
    assert torch.cuda.is_available() or len(notes) == 3


def test_dali_is_tried_before_it_is_needed() -> None:
    assert refusal_of_dali(torch.device("cpu")) is None
    refused = refusal_of_dali(torch.device("cuda", 0))
    assert torch.cuda.is_available() or (refused is not None and "DALI cannot decode on cuda:0" in refused)


def test_threads_are_a_quarter_half_and_all_of_the_cores() -> None:
    assert thread_choices(16) == [4, 8, 16]
    assert thread_choices(2) == [1, 2]


def test_dali_on_a_cpu_feeds_pairs(few: Photographs) -> None:
    feed = open_staged_views(few.beton, 1, 3, Staged(decode="dali-cpu"), size=32)
    assert next(feed.batches) == 6  # source images of 3 pairs
    assert feed.run_from_idle(0.05).pairs_per_second > 0
    feed.close()


@pytest.mark.gpu
def test_the_sweep_finds_settings(few: Photographs) -> None:
    progress = Progress()
    grid = Grid(shares=(0.65, 0.0), thresholds=(0,), prefetches=(2,), splits=(0.5,))
    best, _ = sweep_gpu(few.beton, 2, 0.05, progress, grid)
    names = {row.name for row in progress.rows}
    assert names >= {"best/dali-gpu", "best/cpu", "best/split:0.5", "pixels/nvJPEG, hardware"}
    assert len([name for name in names if name.startswith("grid/")]) == 3
    assert all(np.isfinite(row.median) for row in progress.rows)
    assert all(row.median > 0 for row in progress.rows if row.metric == METRIC)
    assert yaml.safe_load(best.yaml)["data"]["prefetch"] == 2
    assert torch.cuda.memory_allocated() < 2**30


@pytest.mark.gpu
def test_the_sweep_keeps_time(few: Photographs) -> None:
    """With none at all there is one point of the grid, and one round of the comparison."""
    progress = Progress(minutes=1e-9)
    _, notes = sweep_gpu(few.beton, 1, 0.05, progress, Grid(splits=(0.5,)))
    assert len([row for row in progress.rows if row.name.startswith("grid/")]) == 1
    assert {row.runs for row in progress.rows if row.name.startswith("best/")} == {1}
    assert "points of the grid were left out" in notes[-1]
