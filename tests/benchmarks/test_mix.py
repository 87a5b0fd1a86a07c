"""What the benchmark of the mix measures is a mix; and its rows and its verdicts are right."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.measurement import OFFICIAL, Row, find, row_of
from benchmarks.mix import FLOOR, FLOOR_OF_FOUR, SHARE, TIME, cpu_rows, gpu_rows, notes
from benchmarks.mixers import (
    MEAN,
    STD,
    compiled_pytorch,
    make_inputs,
    other_mixers,
    our_kernel,
    our_loop,
    plain_pytorch,
)
from benchmarks.progress import Progress
from benchmarks.results import read_json
from pipelines.mix_reference import mix
from pipelines.thread_pool import ThreadPool
from tools.benchmark import main

CPU = torch.device("cpu")


def test_inputs_are_pairs_of_noise_with_boxes_of_their_lam() -> None:
    inputs = make_inputs(80, 30, torch.float32, CPU, 0)
    views = [*inputs.views_a, *inputs.views_b]
    assert [view.shape for view in views] == [(80, 30, 30, 3)] * 4
    assert not any(torch.equal(*pair) for pair in combinations(views, 2))
    y0, x0, y1, x1 = inputs.cut_boxes.T
    whole = (y0 > 0) & (x0 > 0) & (y1 < 30) & (x1 < 30)  # not clipped by the border
    side = 30 * torch.sqrt(1 - inputs.lam)
    assert ((y1 - y0 - side).abs()[whole] <= 2).all()
    assert int(whole.sum()) > 5
    # of each pixel of a pair 3 x 3 bytes are read, and 2 x 3 numbers of 4 bytes are written
    assert inputs.needed_bytes() == 80 * 900 * (3 * 3 + 2 * 12)
    assert inputs.needed_bytes(channels=4) == 80 * 900 * (3 * 4 + 2 * 12)


def test_what_is_measured_is_the_mix(interpreted: Callable[..., None]) -> None:
    inputs = make_inputs(6, 13, torch.float32, CPU, 1)
    expected = mix(inputs.views_a, inputs.views_b, inputs.lam, inputs.cut_boxes, MEAN, STD)
    assert torch.equal(plain_pytorch(inputs), expected)
    with ThreadPool(2) as pool:
        our_loop(pool)(inputs)
    torch.testing.assert_close(inputs.out, expected)
    inputs.out.zero_()
    interpreted(our_kernel, inputs)
    torch.testing.assert_close(inputs.out, expected)


def test_the_others_make_as_many_images() -> None:
    """torchvision's (and timm's) first image mixes stream a's first and last; so it differs from both."""
    inputs = make_inputs(6, 13, torch.bfloat16, CPU, 1)
    assert {"plain-pytorch", "torchvision-v2"} <= other_mixers().keys()
    for mixer in other_mixers().values():
        images = mixer(inputs)
        assert isinstance(images, torch.Tensor)
        assert images.shape == (12, 3, 13, 13)
        assert images.dtype == torch.bfloat16
        assert float(images.float().mean()) == pytest.approx(0.2, abs=0.2)  # noise about 127, normalised


def test_timm_is_measured_where_it_is_installed() -> None:
    installed = importlib.util.find_spec("timm") is not None
    assert ({"timm-batch", "timm-elem"} <= other_mixers().keys()) == installed


def test_rows_of_a_cpu() -> None:
    threads = torch.get_num_threads()
    rows = cpu_rows(pairs=4, size=20, seconds=0.01, cores=2, progress=Progress())
    assert torch.get_num_threads() == threads
    for name in (FLOOR, "our-loop", "plain-pytorch", "torchvision-v2"):
        row = find(rows, name, TIME)
        assert row is not None
        assert 0 < row.min <= row.median <= row.max
    copied, floor = find(rows, FLOOR, "copy_bandwidth"), find(rows, FLOOR, TIME)
    assert copied is not None and floor is not None
    needed = 4 * 20 * 20 * (3 * 3 + 2 * 12)
    assert copied.median == pytest.approx(needed / (1000 * floor.median))  # bytes a nanosecond are GB/s
    assert find(rows, "our-loop", SHARE) is not None


def test_the_command_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bounds = ["--images", "8", "--size", "16", "--seconds", "0.01"]
    outputs = ["--json", str(tmp_path / "mix.json"), "--picture", str(tmp_path / "mix.png")]
    assert main(["mix", *bounds, *outputs]) == 0
    assert "4 pairs of 16 x 16 pixels" in capsys.readouterr().out
    assert {row.name for row in read_json(tmp_path / "mix.json")["rows"]} >= {FLOOR, "plain-pytorch"}
    assert (tmp_path / "mix.png").stat().st_size > 1000


def test_an_odd_number_of_pairs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mix", "--images", "6", "--picture", str(tmp_path / "mix.png")]) != 0
    assert "--images 6: give a multiple of 4" in capsys.readouterr().err


def _row(name: str, metric: str, value: float) -> Row:
    return row_of([value], name=name, metric=metric, unit="")


def test_goals_are_said_to_be_reached_or_not() -> None:
    rows = [
        _row("our-kernel", TIME, 70),
        _row("our-kernel", SHARE, 84.9),
        _row("plain-pytorch", TIME, 560),
        _row("torch-compile", TIME, 83),
        _row(FLOOR_OF_FOUR, TIME, 67.9),
    ]
    _, share, four, plain, compiled = notes(rows, "our-kernel", "noise")
    assert share == "our-kernel moves its bytes at 84.9 % of the copy bandwidth: goal 85 % NOT reached."
    assert four == "Views of four channels take 0.97 times as long as our-kernel at least: they might pay."
    assert plain == "our-kernel is 8.00 times as fast as plain-pytorch: goal 8 times reached."
    assert compiled == "our-kernel is 1.19 times as fast as torch-compile: goal 1.2 times NOT reached."


def test_a_cpu_has_no_goals() -> None:
    rows = [_row("our-loop", TIME, 70), _row("our-loop", SHARE, 90), _row("plain-pytorch", TIME, 140)]
    assert notes(rows, "our-loop", "noise")[1:] == [
        "our-loop moves its bytes at 90.0 % of the copy bandwidth.",
        "our-loop is 2.00 times as fast as plain-pytorch.",
    ]


@pytest.mark.gpu
def test_rows_of_a_gpu() -> None:
    rows = gpu_rows(pairs=8, size=64, seconds=0.05, progress=Progress())
    for name in (FLOOR, FLOOR_OF_FOUR, "our-kernel", "plain-pytorch", "torch-compile", "torchvision-v2"):
        assert find(rows, name, TIME) is not None
    augmentation = find(rows, "our-augmentation", TIME)
    assert augmentation is not None
    assert augmentation.augmentation == OFFICIAL
    assert find(rows, "our-kernel", SHARE) is not None


@pytest.mark.gpu
def test_torch_compile_mixes_like_the_reference() -> None:
    inputs = make_inputs(8, 64, torch.bfloat16, torch.device("cuda"), 0)
    ours = np.array(plain_pytorch(inputs).float().cpu())
    np.testing.assert_allclose(compiled_pytorch()(inputs).float().cpu(), ours, rtol=2**-7, atol=1e-5)


@pytest.mark.gpu
def test_plain_pytorch_does_not_wait_for_the_device() -> None:
    """It would be measured slower than it is."""
    inputs = make_inputs(8, 64, torch.bfloat16, torch.device("cuda"), 0)
    plain_pytorch(inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        plain_pytorch(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
