"""Staged copies: the same bytes, made once, believed only when whole, and never half there."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.beton.manifest import manifest_path
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.beton.staging import _write, stage_beton, stage_folder, staged_bytes
from pipelines.beton.verification import Verified, verify_beton
from pipelines.user_error import UserError


@pytest.fixture
def far(photographs: BetonFile, tmp_path: Path) -> Path:
    """A beton in a folder of its own, which a test may damage."""
    path = tmp_path / "far" / "train.beton"
    path.parent.mkdir()
    shutil.copyfile(photographs.path, path)
    shutil.copyfile(manifest_path(photographs.path), manifest_path(path))
    return path


@pytest.fixture
def near(tmp_path: Path) -> Path:
    """The folder of the copies."""
    folder = tmp_path / "near"
    folder.mkdir()
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def overwrite_byte(path: Path, position: int) -> None:
    time.sleep(0.05)  # the clock of a file's times ticks every 10 ms or more often
    with path.open("r+b") as file:
        file.seek(position)
        old = file.read(1)[0]
        file.seek(position)
        file.write(bytes([old ^ 1]))


def test_copy_is_the_file_with_its_manifest(far: Path, near: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy = stage_beton(far, near)
    assert copy.is_relative_to(near) and copy.name == "train.beton"
    assert digest(copy) == digest(far)
    assert digest(manifest_path(copy)) == digest(manifest_path(far))
    assert open_beton(copy).num_images == 23
    assert "Staging" in capfd.readouterr().err
    far.unlink()  # a copy that is there needs its source no more
    before = copy.stat()
    assert stage_beton(far, near) == copy
    assert os.path.samestat(before, copy.stat()) and capfd.readouterr().err == ""


def test_sets_of_one_name_do_not_meet(far: Path, digits: BetonFile, near: Path, tmp_path: Path) -> None:
    other = tmp_path / "train.beton"
    shutil.copyfile(digits.path, other)
    shutil.copyfile(manifest_path(digits.path), manifest_path(other))
    copies = [stage_beton(path, near) for path in (far, other)]
    assert [digest(copy) for copy in copies] == [digest(far), digest(other)]


@pytest.mark.parametrize("position", [30, 5_000_000, -10], ids=["header", "page", "table"])
def test_damaged_source_is_refused_and_leaves_no_copy(far: Path, near: Path, position: int) -> None:
    position = position if position >= 0 else far.stat().st_size + position
    overwrite_byte(far, min(position, far.stat().st_size - 10))
    with pytest.raises(UserError, match=r"train.beton: .* is damaged; `convert_datasets.py verify` names"):
        stage_beton(far, near)
    assert [path.name for path in near.rglob("*") if path.is_file()] == [".train.beton.checked"]


def test_shortened_source_and_missing_or_damaged_manifest(far: Path, near: Path) -> None:
    length = far.stat().st_size
    os.truncate(far, length - 1)
    with pytest.raises(UserError, match=f"has {length - 1:,} bytes and its manifest says {length:,}"):
        stage_beton(far, near)
    text = manifest_path(far).read_text()
    manifest_path(far).write_text(text.replace('"A"', '"Z"'))
    with pytest.raises(UserError, match=r"the manifest is damaged; copy it again"):
        stage_beton(far, near)
    manifest_path(far).unlink()
    with pytest.raises(UserError, match="cannot read the manifest"):
        stage_beton(far, near)


def test_damaged_or_torn_copy_is_made_again(far: Path, near: Path) -> None:
    copy = stage_beton(far, near)
    overwrite_byte(copy, copy.stat().st_size // 2)
    assert stage_beton(far, near) == copy and digest(copy) == digest(far)
    os.truncate(copy, 100)
    assert stage_beton(far, near) == copy and digest(copy) == digest(far)
    manifest_path(copy).unlink()
    stage_beton(far, near)
    assert digest(manifest_path(copy)) == digest(manifest_path(far))


def test_a_change_whose_time_was_set_back_is_seen(far: Path, near: Path) -> None:
    copy = stage_beton(far, near)
    before = copy.stat()
    overwrite_byte(copy, before.st_size // 2)
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert stage_beton(far, near) == copy and digest(copy) == digest(far)


def test_touched_but_whole_copy_is_checked_and_kept(
    far: Path, near: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = stage_beton(far, near)
    os.utime(copy)
    before = copy.stat().st_ino
    capfd.readouterr()
    stage_beton(far, near)
    assert copy.stat().st_ino == before and capfd.readouterr().err == ""


def _stage(arguments: tuple[Path, Path]) -> tuple[str, int]:
    copy = stage_beton(*arguments)
    return digest(copy), copy.stat().st_ino


def test_ranks_that_start_at_once_make_one_copy(far: Path, near: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as ranks:
        seen = ranks.map(_stage, [(far, near)] * 6, chunksize=1)
    assert set(seen) == {(digest(far), next(near.rglob("train.beton")).stat().st_ino)}


def test_what_the_copies_take(far: Path, near: Path) -> None:
    """And nothing else in a folder of the user's own."""
    assert staged_bytes(near) == staged_bytes(near / "none") == 0
    (near / "mine").mkdir()
    (near / "mine" / "data").write_bytes(bytes(1000))
    copy = stage_beton(far, near)
    beside = copy.with_name(f".{copy.name}.checked").stat().st_size
    assert staged_bytes(near) == far.stat().st_size + manifest_path(far).stat().st_size + beside
    shutil.rmtree(copy.parent)
    assert staged_bytes(near) == 0


def test_too_little_room_is_one_sentence(far: Path, near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(near)._replace(free=far.stat().st_size - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"needs .* GB and .*near has room for .* set --data.stage none"):
        stage_beton(far, near)


def test_a_copy_in_memory_must_fit_the_memory(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.beton.staging.available_memory", lambda: far.stat().st_size - 1)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        pytest.raises(UserError, match="has room for"),
    ):
        stage_beton(far, Path(folder))


def test_a_disk_that_fills_up_on_the_way_is_one_sentence(near: Path) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(UserError, match=r"near is full: remove older copies there"):
        _write(descriptor, np.zeros(8, np.uint8), 0, near / "digest" / "train.beton")
    os.close(descriptor)


def test_writes_that_stop_short_go_on(far: Path, near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[:700_001], at))
    assert digest(stage_beton(far, near)) == digest(far)


def test_a_copy_is_not_read_again(far: Path, near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def verify(copy: Path, workers: int) -> Verified:
        asked.append(copy)
        return verify_beton(copy, workers=workers)

    monkeypatch.setattr("pipelines.beton.staging.verify_beton", verify)
    copy = stage_beton(far, near)
    assert stage_beton(far, near) == copy and not asked
    os.utime(copy)
    assert stage_beton(far, near) == copy and asked == [copy]
    assert stage_beton(far, near) == copy and asked == [copy]


def test_default_folders_and_those_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = stage_folder("local", None)
    assert own == tmp_path / f"fasttail-{os.getuid()}" and own.stat().st_mode & 0o777 == 0o700
    chosen = stage_folder("ram", str(tmp_path / "a" / "b"))
    assert chosen.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"data.stage local: .* cannot be made .*choose a --data.stage_folder"
    ):
        stage_folder("local", str(tmp_path / "file" / "x"))
    monkeypatch.setattr("os.getuid", lambda: own.stat().st_uid + 1)
    (tmp_path / f"fasttail-{own.stat().st_uid + 1}").mkdir()
    with pytest.raises(UserError, match="belongs to another user"):
        stage_folder("local", None)
