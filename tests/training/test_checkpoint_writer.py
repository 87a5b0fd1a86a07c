"""Checkpoints written by a thread: the newest few and the best stay, and what goes wrong is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from pipelines.user_error import UserError
from training import checkpoint_writer
from training.checkpoint import Checkpoint, give_name, load_checkpoint
from training.checkpoint_writer import CheckpointWriter, copy_of, on_host
from training.run_folder import RunFolder


def make_checkpoint(step: int, device: str = "cpu", size: int = 1000) -> Checkpoint:
    weight = torch.full((size,), float(step), device=device)
    return Checkpoint(
        step=step,
        model={"weight": weight},
        optimizer={
            "state": {0: {"momentum_buffer": 2 * weight}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        scaler={},
        config={},
        last=None,
        best=None,
        seconds=1.0,
        versions={},
        metrics={"sums": {"loss": torch.tensor(1.5, device=device)}, "steps": 2},
        bad_in_a_row=torch.tensor(0, device=device),
    )


def make_writer(
    folder: RunFolder, *, keep: int = 2, first_step: int = 0, minutes: float = 9
) -> CheckpointWriter:
    return CheckpointWriter(folder, minutes=minutes, keep=keep, first_step=first_step)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


@pytest.fixture
def writer(folder: RunFolder) -> Iterator[CheckpointWriter]:
    writer = make_writer(folder)
    yield writer
    writer.close()


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_the_newest_and_the_best_are_kept(folder: RunFolder, writer: CheckpointWriter) -> None:
    for step in (3, 6, 9, 12):
        writer.save(make_checkpoint(step), is_best=step == 6)
    writer.wait()
    assert names(folder) == ["best.pt", "last.pt", "step_00000009.pt", "step_00000012.pt"]
    steps = {"best.pt": 6, "last.pt": 12, "step_00000009.pt": 9, "step_00000012.pt": 12}
    for name, step in steps.items():
        saved = load_checkpoint(folder.checkpoints / name)
        assert saved.step == step
        assert saved.model["weight"].tolist() == [step] * 1000
        assert saved.metrics["sums"]["loss"] == 1.5


def test_the_log_and_every_name_are_on_the_disk_in_this_order(
    folder: RunFolder, writer: CheckpointWriter, brought_to_disk: list[str]
) -> None:
    """After a power cut no name stands for less than the whole, and no checkpoint is ahead of the log."""
    folder.metrics.write_text("{}\n")
    writer.save(make_checkpoint(3), is_best=True)
    writer.wait()
    files, folders = brought_to_disk[:1] + brought_to_disk[1::2], brought_to_disk[2::2]
    assert files == ["metrics.jsonl", ".step_00000003.pt.partial", ".best.pt.partial", ".last.pt.partial"]
    assert folders == ["checkpoints"] * 3


def test_what_is_written_is_what_it_was_at_the_call(folder: RunFolder, writer: CheckpointWriter) -> None:
    """Training goes on while the thread writes: 40 MB here, changed at once."""
    checkpoint = make_checkpoint(7, size=10_000_000)
    writer.save(checkpoint, is_best=False)
    checkpoint.model["weight"].zero_()
    checkpoint.optimizer["state"][0]["momentum_buffer"].zero_()
    checkpoint.metrics["sums"].clear()
    writer.wait()
    saved = load_checkpoint(folder.last)
    assert saved.model["weight"].eq(7).all()
    assert saved.optimizer["state"][0]["momentum_buffer"].eq(14).all()
    assert saved.metrics["sums"]["loss"] == 1.5


def test_due_by_the_clock_and_not_while_one_is_written(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands still unless it is put forward, and the write waits in the middle."""
    now, may_end = [1000.0], threading.Event()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(
        checkpoint_writer, "give_name", lambda path, name: (may_end.wait(600), give_name(path, name))
    )
    writer = make_writer(folder, minutes=0.5)
    now[0] += 29.9
    assert not writer.is_due()
    now[0] += 0.2
    assert writer.is_due()
    writer.save(make_checkpoint(1), is_best=False)
    now[0] += 31
    assert not writer.is_due()
    may_end.set()
    writer.wait()
    assert writer.is_due()
    writer.save(make_checkpoint(2), is_best=False)
    writer.wait()
    assert not writer.is_due()
    writer.close()


def test_an_error_of_the_thread_reaches_the_user_once(folder: RunFolder, writer: CheckpointWriter) -> None:
    writer.save(make_checkpoint(1), is_best=False)
    writer.wait()
    folder.of_step(2).mkdir()  # where the next one is to be
    message = r"step_00000002\.pt: cannot write the checkpoint: .*; make room"
    writer.save(make_checkpoint(2), is_best=False)
    with pytest.raises(UserError, match=message):
        writer.wait()
    writer.wait()
    writer.save(make_checkpoint(2), is_best=False)
    with pytest.raises(UserError, match=message):
        writer.save(make_checkpoint(3), is_best=False)
    writer.save(make_checkpoint(2), is_best=False)
    deadline = time.monotonic() + 600
    with pytest.raises(UserError, match=message):
        while time.monotonic() < deadline:
            writer.is_due()
            time.sleep(0.001)
    assert load_checkpoint(folder.last).step == 1


def test_files_beyond_the_first_step_go_once_a_new_one_is_whole(folder: RunFolder) -> None:
    """They were torn, or passed over for an earlier one; and they count for none of those that are kept."""
    before = make_writer(folder, keep=4)
    for step in (4, 8, 11):
        before.save(make_checkpoint(step), is_best=False)
    before.wait()
    before.close()
    folder.of_step(11).write_bytes(b"torn")
    writer = make_writer(folder, first_step=8)
    assert names(folder) == ["last.pt", "step_00000004.pt", "step_00000008.pt", "step_00000011.pt"]
    writer.save(make_checkpoint(9), is_best=False)
    writer.wait()
    assert names(folder) == ["last.pt", "step_00000008.pt", "step_00000009.pt"]
    assert load_checkpoint(folder.last).step == 9
    writer.close()


def test_a_step_written_again_stays(folder: RunFolder) -> None:
    folder.checkpoints.mkdir(parents=True)
    folder.of_step(11).write_bytes(b"torn")
    writer = make_writer(folder, first_step=8)
    writer.save(make_checkpoint(11), is_best=False)
    writer.wait()
    assert names(folder) == ["last.pt", "step_00000011.pt"]
    assert load_checkpoint(folder.of_step(11)).step == 11
    writer.close()


def test_what_a_killed_process_left_half_written_goes(folder: RunFolder) -> None:
    folder.checkpoints.mkdir()
    (folder.checkpoints / ".step_00000004.pt.partial").write_bytes(b"half")
    make_writer(folder).close()
    assert names(folder) == []


def test_ended_between_two_names_a_run_comes_back_to_its_best_epoch(
    folder: RunFolder, writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`best.pt` is there before `last.pt` says that it is: the epoch is trained again, and finds it so."""
    writer.save(make_checkpoint(3), is_best=True)
    writer.wait()

    def killed(path: Path, name: Path) -> None:
        if name == folder.last:
            raise UserError("killed")
        give_name(path, name)

    monkeypatch.setattr(checkpoint_writer, "give_name", killed)
    writer.save(make_checkpoint(6), is_best=True)
    with pytest.raises(UserError, match="killed"):
        writer.wait()
    assert (load_checkpoint(folder.last).step, load_checkpoint(folder.best).step) == (3, 6)


def test_a_run_folder_that_is_taken_away_is_not_made_again(
    folder: RunFolder, writer: CheckpointWriter
) -> None:
    folder.path.rename(folder.path.with_name("moved"))
    writer.save(make_checkpoint(1), is_best=False)
    with pytest.raises(UserError, match="cannot write the checkpoint: No such file or directory"):
        writer.wait()
    assert not folder.path.exists()


def test_a_name_where_links_are_impossible_is_a_copy(tmp_path: Path) -> None:
    """No link goes from one file system to another."""
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine refuses: it has no second file system at /dev/shm")
    with TemporaryDirectory(dir=elsewhere) as folder:
        name = Path(folder, "two.pt")
        for content in (b"first", b"second, longer"):
            (tmp_path / "one.pt").write_bytes(content)
            give_name(tmp_path / "one.pt", name)
            assert name.read_bytes() == content
        assert not name.samefile(tmp_path / "one.pt")


def test_closing_leaves_no_thread(folder: RunFolder) -> None:
    before = set(threading.enumerate())
    writer = make_writer(folder)
    writer.save(make_checkpoint(1), is_best=False)
    assert set(threading.enumerate()) > before
    writer.close()
    assert set(threading.enumerate()) <= before
    assert load_checkpoint(folder.last).step == 1


@pytest.mark.gpu
def test_from_a_gpu_while_it_computes(folder: RunFolder, writer: CheckpointWriter) -> None:
    """The copy is of the moment of the call, although nothing waits, and lies on the host in the file."""
    checkpoint = make_checkpoint(5, "cuda", size=50_000_000)
    matrix = torch.randn(8192, 8192, device="cuda")
    for _ in range(50):
        matrix = (matrix @ matrix).clamp(-1, 1)
    checkpoint.model["weight"].add_(1)
    writer.save(checkpoint, is_best=True)
    checkpoint.model["weight"].zero_()
    writer.wait()
    saved = load_checkpoint(folder.last)
    assert saved.model["weight"].device.type == "cpu"
    assert saved.model["weight"].eq(6).all()
    copy, copied = copy_of(checkpoint)
    assert copied is not None
    assert not on_host(copy, copied).model["weight"].is_cuda
