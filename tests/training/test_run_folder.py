"""A run folder is made, refused or cleared, and its checkpoint continued only under the same settings."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import torch

from pipelines.beton.reader import BetonFile, open_beton
from pipelines.user_error import UserError
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import Config, DataConfig, OptimConfig, RunConfig
from training.run_folder import RunFolder

CPU = torch.device("cpu")
CONFIG = Config(
    method="glmc",
    data=DataConfig(train="train.beton"),
    optim=OptimConfig(epochs=3, batch_size=8, lr=0.1),
    run=RunConfig(folder="run"),
)


def save(folder: RunFolder, config: Config, betons: dict[str, BetonFile] | None = None) -> None:
    plain, data = config.to_dict(), {split: beton.digest for split, beton in (betons or {}).items()}
    save_checkpoint(
        Checkpoint(7, {}, {}, {}, config=plain, last=None, best=None, seconds=0.0, versions={}, data=data),
        folder.last,
    )


def test_a_folder_is_made_and_an_existing_one_left_as_it_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "new")
    folder.create()
    assert list(folder.path.iterdir()) == []
    folder.metrics.write_text("{}\n")
    folder.create()
    assert [file.name for file in folder.path.iterdir()] == ["metrics.jsonl"]


def test_starts_at_the_same_moment_all_find_the_folder_writable(tmp_path: Path) -> None:
    folder, together = RunFolder(tmp_path / "run"), Barrier(8)

    def create_often(_: int) -> None:
        together.wait()
        for _ in range(300):
            folder.create()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create_often, range(8)))
    assert list(folder.path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"run\.folder .*file.* cannot be written \(.+\); choose another"):
            RunFolder(path).create()
    assert (tmp_path / "file").read_text() == "mine"


def test_clear_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save(folder, CONFIG)
    for file in (folder.config, folder.metrics, folder.summary, tmp_path / "notes.txt"):
        file.write_text("text")
    for inside in (folder.report / "curves.png", tmp_path / "tensorboard" / "events"):
        inside.parent.mkdir()
        inside.write_text("text")
    folder.clear()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_the_same_settings_go_on_and_those_of_speed_may_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.checkpoint_to_continue(CONFIG, {}, CPU) is None
    save(folder, CONFIG)
    faster = replace(
        CONFIG,
        data=DataConfig(train="train.beton", threads=3, prefetch=5),
        run=RunConfig(folder="moved", log_steps=7),
    )
    for config in (CONFIG, faster):
        checkpoint = folder.checkpoint_to_continue(config, {}, CPU)
        assert checkpoint is not None
        assert checkpoint.step == 7


def test_a_torn_file_of_two_names_is_complained_of_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save(folder, CONFIG)
    folder.last.rename(folder.of_step(7))
    folder.of_step(9).write_bytes(b"torn")
    folder.last.hardlink_to(folder.of_step(9))
    with pytest.warns(UserWarning, match=r"last\.pt is not a whole checkpoint") as warned:
        checkpoint = folder.checkpoint_to_continue(CONFIG, {}, CPU)
    assert checkpoint is not None
    assert (checkpoint.step, len(warned)) == (7, 1)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    save(folder, CONFIG)
    other = replace(
        CONFIG,
        optim=OptimConfig(epochs=3, batch_size=8, lr=0.2),
        run=RunConfig(folder="moved", seed=1),
    )
    with pytest.raises(
        UserError,
        match=r"other settings: optim\.lr \(0\.1 there, 0\.2 here\); run\.seed \(0 there, 1 here\)\. Use another",
    ):
        folder.checkpoint_to_continue(other, {}, CPU)


def test_other_data_under_the_same_name_are_refused(digits: Path, tmp_path: Path) -> None:
    """Test images of as many classes in the place of the training images; a copy is the same data."""
    folder, own = RunFolder(tmp_path / "run"), tmp_path / "train.beton"
    for split in ("train", "test"):
        for name in (f"{split}.beton", f"{split}.beton.json"):
            shutil.copyfile(digits / name, tmp_path / name)
    folder.create()
    save(folder, CONFIG, {"train": open_beton(own)})
    assert (
        folder.checkpoint_to_continue(CONFIG, {"train": open_beton(digits / "train.beton")}, CPU) is not None
    )
    for name in ("", ".json"):
        shutil.copyfile(digits / f"test.beton{name}", f"{own}{name}")
    with pytest.raises(UserError, match=r"data\.train was another file than .*train\.beton is now\. Bring"):
        folder.checkpoint_to_continue(CONFIG, {"train": open_beton(own)}, CPU)
