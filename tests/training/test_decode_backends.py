"""A whole run of photographs whose JPEGs DALI decodes, as a user starts it: trained, evaluated, continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.train import main


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]


def test_a_run_by_dali_is_the_run_by_threads_but_for_rounding(
    photograph_options: Callable[..., list[str]], tmp_path: Path
) -> None:
    for decode in ("dali-cpu", "cpu"):
        assert main(photograph_options(tmp_path / decode, "--data.decode", decode)) == 0
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / decode / "metrics.jsonl").read_text().splitlines()
            if '"train"' in line
        ]
        for decode in ("dali-cpu", "cpu")
    ]
    assert len(losses[0]) == len(losses[1]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]  # DALI did decode
    assert (
        main(photograph_options(tmp_path / "again", "--data.decode", "dali-cpu", "--dali.threads", "1")) == 0
    )
    ours, again = _weights(tmp_path / "dali-cpu"), _weights(tmp_path / "again")
    assert all(torch.equal(ours[name], again[name]) for name in ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.decode", "gpu"], "data.decode is gpu: it must be auto"),
        (["--data.decode", "dali-gpu"], "data.decode dali-gpu needs a CUDA device"),
        (["--data.decode", "cpu", "--dali.threads", "3"], "dali.threads has no effect with data.decode cpu"),
        (
            ["--data.decode", "dali-cpu", "--dali.hardware_share", "0.5"],
            "dali.hardware_share has no effect with data.decode dali-cpu",
        ),
        (["--dali.huffman_threshold", "-1"], "dali.huffman_threshold is -1"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(
    photograph_options: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert main(photograph_options(tmp_path / "run", *options)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
