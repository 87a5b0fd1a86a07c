"""A run on staged copies: the settings, and the same weights as without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.user_error import UserError
from training.build import open_betons
from training.command_line import build_parser, parse_config
from training.train import main


def test_betons_of_a_staged_run_are_the_copies(
    options: Callable[..., list[str]], digits: Path, tmp_path: Path
) -> None:
    stage = ["--data.stage", "local", "--data.stage_folder", str(tmp_path / "near")]
    config, _ = parse_config(build_parser("x", ""), options(tmp_path / "run", *stage))
    betons = open_betons(config)
    assert {split: beton.path.name for split, beton in betons.items()} == {
        "train": "train.beton",
        "test": "test.beton",
    }
    for split, beton in betons.items():
        assert beton.path.is_relative_to(tmp_path / "near")
        assert beton.path.read_bytes() == (digits / f"{split}.beton").read_bytes()


def test_staging_may_begin_in_the_middle_of_a_run(options: Callable[..., list[str]], tmp_path: Path) -> None:
    stage = ["--data.stage", "ram", "--data.stage_folder", str(tmp_path / "near")]
    assert main(options(tmp_path / "plain", method="ce", epochs=1)) == 0
    assert main(options(tmp_path / "staged", *stage, method="ce", epochs=1)) == 0
    plain, staged = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"]
        for name in ("plain", "staged")
    )
    assert all(torch.equal(plain[name], staged[name]) for name in plain)
    assert main(options(tmp_path / "plain", *stage, method="ce", epochs=1)) == 0  # finished: nothing to do


def test_a_folder_without_staging_is_refused(options: Callable[..., list[str]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.stage_folder has no effect with data.stage none"):
        parse_config(build_parser("x", ""), options(tmp_path, "--data.stage_folder", "x"))
