"""What surrounds the parts of a rehearsal: the log that is read while it is written, and the table."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peak_memory import Watched
from benchmarks.rehearsal import Part, steps_logged, table


def test_steps_of_a_log_that_is_being_written(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert steps_logged(metrics) == 0
    entries = [{"kind": "train", "step": 50}, {"kind": "train", "step": 97}, {"kind": "eval", "step": 98}]
    whole = "".join(json.dumps(entry) + "\n" for entry in entries)
    metrics.write_text(whole)
    assert steps_logged(metrics) == 97
    metrics.write_text(whole + '{"kind": "train", "step": 150')
    assert steps_logged(metrics) == 97


def test_table() -> None:
    parts = [
        Part(
            name="convert",
            watched=Watched(seconds=1234.56, cpu_seconds=7.25, peak_memory=80.4),
            what="2 images",
        ),
        Part(name="x", watched=Watched(seconds=0.04, cpu_seconds=0, peak_memory=1500), what=""),
    ]
    assert table(parts).splitlines() == [
        "part     seconds  CPU seconds  peak MiB",
        "convert  1,234.6          7.2        80  2 images",
        "x            0.0          0.0     1,500",
    ]
