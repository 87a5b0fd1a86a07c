"""Which decoder evaluates a checkpoint, for every decoder of a run on either device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.user_error import UserError
from training.command_line import build_parser, parse_config
from training.config import Config
from training.eval_decode import with_eval_decode
from training.evaluate import main

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def config(options: Callable[..., list[str]]) -> Callable[..., Config]:
    """A maker of the configuration of a run that decodes."""

    def make(*more: str) -> Config:
        command = options(Path("unused"), "--view.crop", "resized", *more)
        return parse_config(build_parser("test", ""), command)[0]

    return make


@pytest.mark.parametrize(
    ("trained", "on_cpu", "on_gpu"),
    [
        ("auto", "auto", "auto"),
        ("cpu", "cpu", "cpu"),
        ("dali-gpu", "auto", "dali-gpu"),
        ("dali-cpu", "dali-cpu", "auto"),
        ("split:0.25", "auto", "split:0.25"),
    ],
)
def test_the_checkpoints_decoder_where_the_device_has_it(
    config: Callable[..., Config], trained: str, on_cpu: str, on_gpu: str
) -> None:
    run = config("--data.decode", trained)
    assert with_eval_decode(run, None, CPU).data.decode == on_cpu
    assert with_eval_decode(run, None, GPU).data.decode == on_gpu


@pytest.mark.parametrize(
    ("more", "on_gpu"),
    [
        (["--data.decode", "cpu"], "cpu"),
        ([], "cpu"),  # trained on a CPU, for a GPU would have refused it
        (["--dali.hardware_share", "1"], "auto"),
        (["--data.decode", "split:0.5", "--dali.hardware_share", "0"], "split:0.5"),
    ],
)
def test_a_deterministic_run_is_evaluated_on_a_gpu(
    config: Callable[..., Config], more: list[str], on_gpu: str
) -> None:
    evaluated = with_eval_decode(config("--run.deterministic", "true", *more), None, GPU)
    assert (evaluated.data.decode, evaluated.run.deterministic) == (on_gpu, False)


@pytest.mark.parametrize(
    ("asked", "device", "share", "threads"),
    [("cpu", GPU, 0.65, 0), ("dali-cpu", CPU, 0.65, 3), ("auto", CPU, 0.3, 3), ("split:0.5", GPU, 0.3, 3)],
)
def test_what_is_asked_for_wins_and_takes_the_settings_it_reads(
    config: Callable[..., Config], asked: str, device: torch.device, share: float, threads: int
) -> None:
    run = config("--data.decode", "dali-gpu", "--dali.hardware_share", "0.3", "--dali.threads", "3")
    evaluated = with_eval_decode(run, asked, device)
    assert evaluated.data.decode == asked
    assert (evaluated.dali.hardware_share, evaluated.dali.threads) == (share, threads)


@pytest.mark.parametrize(
    ("asked", "device", "message"),
    [
        ("gpu", CPU, "data.decode is gpu: it must be auto"),
        ("dali-gpu", CPU, "dali-gpu needs a CUDA device"),
        ("dali-cpu", GPU, "dali-cpu is for run.device cpu"),
    ],
)
def test_what_does_not_exist_is_refused(
    config: Callable[..., Config], asked: str, device: torch.device, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        with_eval_decode(config(), asked, device)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_deterministic_run_on_raw_pixels_is_evaluated_by_its_own_decoder(
    device: str, glmc_run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DALI cannot read them, so the default of a GPU fails, and what any other decoder than `cpu` says."""
    content = torch.load(glmc_run / "checkpoints" / "last.pt", weights_only=True)
    content["config"]["view"].update(crop="resized", eval_resize=36)
    content["config"]["data"].update(decode="cpu")
    content["config"]["run"].update(deterministic=True)
    torch.save(content, tmp_path / "run.pt")
    command = ["--checkpoint", str(tmp_path / "run.pt"), "--data", str(digits / "test.beton")]
    command += ["--threads", "1", "--precision", "float32", "--json", str(tmp_path / "figures.json")]
    right = {}
    for each in {"cpu", device}:
        assert main([*command, "--device", each]) == 0
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["decode"] == "cpu"
        right[each] = figures["heads"]["rebalanced"]["all"]
    assert 0 < right["cpu"] == pytest.approx(right[device], abs=0.02)
    capsys.readouterr()
    other = "dali-cpu" if device == "cpu" else "dali-gpu"
    assert main([*command, "--device", device, "--decode", other]) == 2
    assert "are raw pixels, and DALI decodes JPEGs only" in capsys.readouterr().err


def test_a_set_that_nobody_decodes_takes_no_decoder(
    glmc_run: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "--checkpoint",
        str(glmc_run / "checkpoints" / "last.pt"),
        "--data",
        str(digits / "test.beton"),
    ]
    assert main([*command, "--device", "cpu", "--decode", "cpu"]) == 2
    assert "--decode has no effect with a checkpoint of view.crop padded" in capsys.readouterr().err
