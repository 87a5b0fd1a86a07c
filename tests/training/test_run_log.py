"""metrics.jsonl and TensorBoard hold every logged value, also after a run was killed and continued."""

from __future__ import annotations

import json
import resource
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.user_error import UserError
from training.run_log import FolderLog, drop_entries_after, read_entries

ENTRIES = [
    {"kind": "train", "epoch": 0, "step": 2, "loss": 1.5},
    {"kind": "eval", "split": "val", "head": "rebalanced", "epoch": 0, "step": 2, "all": 0.25, "few": None},
    {"kind": "train", "epoch": 0, "step": 4, "loss": 1.25},
    {"kind": "train", "epoch": 1, "step": 6, "loss": 1.0},
]


def write(folder: Path, entries: list[dict[str, object]], first_step: int = 0) -> None:
    log = FolderLog(folder, first_step=first_step, total_steps=9)
    for entry in entries:
        log.write(entry)
        log.progress(1, 10.0, 1.0)
    log.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: (step, value) by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


SCALARS = {
    "train/epoch": [(2, 0.0), (4, 0.0), (6, 1.0)],
    "train/loss": [(2, 1.5), (4, 1.25), (6, 1.0)],
    "eval/val/rebalanced/epoch": [(2, 0.0)],
    "eval/val/rebalanced/all": [(2, 0.25)],
}


def test_every_value_is_in_both_files(tmp_path: Path) -> None:
    write(tmp_path, ENTRIES)
    assert read_entries(tmp_path / "metrics.jsonl") == ENTRIES
    assert scalars(tmp_path) == SCALARS


def test_a_continued_run_replaces_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, [*ENTRIES[:2], {"kind": "train", "epoch": 0, "step": 4, "loss": 9.0}])
    write(tmp_path, ENTRIES[2:], first_step=2)
    assert read_entries(tmp_path / "metrics.jsonl") == ENTRIES
    assert scalars(tmp_path) == SCALARS


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 3), (6, 4)])
def test_later_steps_and_a_half_written_line_are_dropped(tmp_path: Path, step: int, kept: int) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = "".join(json.dumps(entry) + "\n" for entry in ENTRIES)
    for torn in ("", '{"kind": "tr', json.dumps(ENTRIES[0])):
        metrics.write_text(lines + torn)
        drop_entries_after(metrics, step)
        assert read_entries(metrics) == ENTRIES[:kept]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_is_cut_back_is_on_the_disk_before_it_replaces_the_log(
    tmp_path: Path, brought_to_disk: list[str]
) -> None:
    """What is kept was on the disk before, and belongs to a checkpoint."""
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(entry) + "\n" for entry in ENTRIES))
    drop_entries_after(metrics, 2)
    assert brought_to_disk == [".metrics.jsonl.partial", tmp_path.name]


def test_lines_that_cannot_be_read_are_left_out_with_a_warning(tmp_path: Path) -> None:
    """As a power cut leaves them, where the newest part of a file has its length but not its bytes."""
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.dumps(entry).encode() + b"\n" for entry in ENTRIES]
    metrics.write_bytes(lines[0] + bytes(30) + b"\xff" + lines[1] + lines[2] + b"3\n")
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: line 2 cannot be read and is left out"):
        drop_entries_after(metrics, 4)
    assert read_entries(metrics) == [ENTRIES[0], ENTRIES[2]]


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # TensorBoard's own thread
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """The kernel refuses to let a file grow past 2,000 bytes, as it refuses on a full disk."""
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), set(threading.enumerate())
    log = FolderLog(tmp_path, first_step=0, total_steps=9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write (the log|TensorBoard's events): File too large"):
            for _ in range(100):
                log.write(ENTRIES[0])
        log.bar.close()
        with suppress(UserError):  # where its thread has failed
            log.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(0 if "tqdm" in thread.name else 60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_without_a_file_there_is_nothing_to_drop(tmp_path: Path) -> None:
    drop_entries_after(tmp_path / "metrics.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_progress_and_lines_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = FolderLog(tmp_path, first_step=3, total_steps=8)
    log.progress(2, 12_345.0, 0.5)
    log.say("a line for the user")
    log.close()
    captured = capsys.readouterr()
    assert "a line for the user" in captured.out
    assert "5/8" in captured.err
    assert "12,345 images/s, loss 0.500" in captured.err
