"""A whole run of photographs whose JPEGs DALI decodes, as a user starts it: trained, evaluated, continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.conversion import convert_images
from pipelines.conversion_settings import ConversionSettings
from pipelines.image_bytes import ImageSettings
from pipelines.sources import from_rows
from training.train import main

CONFIG = """\
method: glmc
model: {backbone: resnet8, width: 4}
view: {size: 32, eval_resize: 36}
optim: {epochs: 2, batch_size: 16, lr: 0.05}
"""


@pytest.fixture(scope="module")
def photographs(
    make_photographs: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A beton of 40 JPEGs of 3 classes."""
    folder = tmp_path_factory.mktemp("photographs")
    files = make_photographs(folder / "files", 40)
    labels = np.repeat([0, 1, 2], [25, 10, 5])
    images = from_rows([file.name for file in files], labels, list("abc"), kind="list", name="photographs")
    settings = ConversionSettings(image=ImageSettings())
    convert_images(images, folder / "files", folder / "photographs.beton", settings, workers=1)
    return folder / "photographs.beton"


def _run(beton: Path, folder: Path, *more: str) -> int:
    config = folder.parent / "config.yaml"
    config.write_text(CONFIG)
    paths = ["--data.train", str(beton), "--data.test", str(beton), "--run.folder", str(folder)]
    device = ["--run.device", "cpu", "--data.threads", "2"]
    return main(["--config", str(config), *paths, *device, *more])


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]


def test_a_run_by_dali_is_the_run_by_threads_but_for_rounding(photographs: Path, tmp_path: Path) -> None:
    for decode in ("dali-cpu", "cpu"):
        assert _run(photographs, tmp_path / decode, "--data.decode", decode) == 0
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
    assert _run(photographs, tmp_path / "again", "--data.decode", "dali-cpu", "--dali.threads", "1") == 0
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
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert _run(photographs, tmp_path / "run", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
