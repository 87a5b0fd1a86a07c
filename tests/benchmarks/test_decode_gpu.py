"""The lines that `decode` prints for a GPU are a configuration, and its feed gives the loader's views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from benchmarks.decode_gpu import dali_candidate, sweep_gpu, thread_choices
from benchmarks.photographs import Photographs
from benchmarks.staged_feeds import Staged, open_staged_views
from training.command_line import build_parser


@pytest.mark.parametrize("decode", ["dali-gpu", "split:0.25"])
def test_the_lines_are_settings_of_a_run(few: Photographs, decode: str) -> None:
    lines = yaml.safe_load(dali_candidate(few.beton, 2, (0.8, 100_000, 12, 4), decode).yaml)
    assert lines == {
        "data": {"decode": decode, "prefetch": 4},
        "dali": {"threads": 12, "hardware_share": 0.8, "huffman_threshold": 100_000},
    }
    help_text = build_parser("x", "x").format_help()
    assert all(f"--{group}.{name} " in help_text for group, values in lines.items() for name in values)


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
    rows, best = sweep_gpu(few.beton, 2, 0.05)
    assert {row.name for row in rows} >= {"best/dali-gpu", "best/split:0.5"}
    assert all(np.isfinite(row.median) and row.median > 0 for row in rows)
    assert yaml.safe_load(best.yaml)["dali"]["threads"] in (1, 2)
    assert torch.cuda.memory_allocated() < 2**30
