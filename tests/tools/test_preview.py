"""The grid of pairs, for every setting of a run that mixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.format import SMALLEST_PAGE
from pipelines.beton.writer import write_beton
from pipelines.sources.digits import digits_split
from tools.preview import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run on a tiny Digits-LT; `--config` is left to the test."""
    folder = tmp_path_factory.mktemp("digits")
    images, encoded = digits_split("train", 50.0, 0)
    write_beton(folder / "train.beton", images, encoded, settings={}, page_size=SMALLEST_PAGE)
    beton = str(folder / "train.beton")
    paths = ["--data.train", beton, "--data.test", beton, "--run.folder", str(folder / "run")]
    return [*paths, "--data.threads", "1", "--run.device", "cpu"]


def config(method: str) -> list[str]:
    return ["--config", str(CONFIGS / f"digits_lt_{method}.yaml")]


def test_a_run_by_a_graph_has_the_pairs_of_the_ordinary_one(command: list[str], tmp_path: Path) -> None:
    grids = {}
    for graph in ("false", "true"):
        out = tmp_path / f"{graph}.png"
        arguments = [*config("glmc"), *command, "--run.cuda_graph", graph, "--pairs", "2", "--out", str(out)]
        assert main(arguments) == 0
        with Image.open(out) as picture:
            grids[graph] = np.asarray(picture.convert("L"))
    assert grids["true"].std() > 10
    assert np.array_equal(grids["true"], grids["false"])
    assert main([*config("glmc"), *command, "--step", "1", "--pairs", "2", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert not np.array_equal(np.asarray(picture.convert("L")), grids["true"])


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("ce", [], "method ce mixes nothing: preview shows pairs, as method glmc has"),
        ("glmc", ["--step", "660"], "--step is 660: the run has steps 0 to 659"),
    ],
)
def test_mistakes_are_one_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str], method: str, more: list[str], message: str
) -> None:
    assert main([*config(method), *command, *more]) == 2
    assert capsys.readouterr().err == f"preview: {message}\n"
