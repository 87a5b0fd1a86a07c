"""Which backend a setting and a device give, and the sentence where they do not fit."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from pipelines.beton.reader import BetonFile
from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.dali_views import DaliViews
from pipelines.draws.views import ViewSettings
from pipelines.images_cpu import CpuImages
from pipelines.images_staged import StagedImages
from pipelines.open_images import Decode, ImageWorks, choose_decode, open_image_works, parse_decode
from pipelines.thread_pool import ThreadPool
from pipelines.user_error import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PHOTOGRAPHS, DIGITS = ViewSettings(size=28), ViewSettings(size=32, crop="padded")


def _open(pool: ThreadPool, decode: str, view: ViewSettings, device: torch.device = CPU) -> ImageWorks:
    return open_image_works(
        view,
        pool,
        decode=parse_decode(decode),
        dali=DaliSettings(),
        device=device,
        dtype=torch.float32,
        batch=DaliShape(max_batch=8, views=2, size=view.size, depth=2),
    )


@pytest.mark.parametrize("by", ["auto", "dali-gpu", "dali-cpu", "cpu"])
def test_names_are_read(by: str) -> None:
    assert parse_decode(by) == Decode(by)
    assert parse_decode("split:0.25") == Decode("split", 0.25)


@pytest.mark.parametrize(
    "text", ["", "gpu", "cpu:0.5", "split", "split:", "split:0", "split:1", "split:half", "split:nan"]
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=rf"data\.decode is {text}: it must be auto, dali-gpu"):
        parse_decode(text)


def test_the_default_is_dali_on_a_gpu_and_threads_on_a_cpu() -> None:
    auto = Decode("auto")
    assert choose_decode(auto, GPU, PHOTOGRAPHS).by == "dali-gpu"
    assert choose_decode(auto, CPU, PHOTOGRAPHS).by == "cpu"
    assert choose_decode(auto, GPU, DIGITS).by == choose_decode(auto, CPU, DIGITS).by == "cpu"
    for chosen in (Decode("dali-gpu"), Decode("cpu"), Decode("split", 0.5)):
        assert choose_decode(chosen, GPU, PHOTOGRAPHS) == chosen
    for chosen in (Decode("dali-cpu"), Decode("cpu")):
        assert choose_decode(chosen, CPU, PHOTOGRAPHS) == chosen


@pytest.mark.parametrize(
    ("decode", "device", "message"),
    [
        (Decode("dali-gpu"), CPU, "dali-gpu needs a CUDA device"),
        (Decode("split", 0.5), CPU, "split needs a CUDA device"),
        (Decode("dali-cpu"), GPU, r"dali-cpu is for run\.device cpu"),
    ],
)
def test_what_the_device_cannot_do_is_refused(decode: Decode, device: torch.device, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_decode(decode, device, PHOTOGRAPHS)


def test_backends_on_a_cpu(photographs: BetonFile, digits: BetonFile, pool: ThreadPool) -> None:
    assert isinstance(_open(pool, "auto", PHOTOGRAPHS).open(photographs), CpuImages)
    assert isinstance(_open(pool, "auto", DIGITS).open(digits), CpuImages)
    works = _open(pool, "dali-cpu", PHOTOGRAPHS)
    sets: list[Any] = [works.open(photographs) for _ in range(2)]
    assert all(isinstance(images, StagedImages) for images in sets)
    assert all(isinstance(images.feed, DaliViews) for images in sets)
    assert sets[0].feed.decoder is sets[1].feed.decoder  # one pipeline a process


@pytest.mark.parametrize("decode", ["dali-cpu", "dali-gpu", "split:0.5", "auto"])
def test_a_missing_dali_stops_the_run(pool: ThreadPool, monkeypatch: pytest.MonkeyPatch, decode: str) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    device = CPU if decode == "dali-cpu" else GPU
    with pytest.raises(UserError, match=r"DALI cannot be imported .*install nvidia-dali-cuda120"):
        _open(pool, decode, PHOTOGRAPHS, device)


def test_a_missing_kernel_stops_the_run(
    photographs: BetonFile, pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pipelines.mix_stage_gpu", None)
    works = ImageWorks(
        view=PHOTOGRAPHS, decode=Decode("dali-gpu"), device=GPU, dtype=torch.bfloat16, pool=pool,
        dali=_open(pool, "dali-cpu", PHOTOGRAPHS).dali,
    )  # fmt: skip
    with pytest.raises(UserError, match="the mix kernel cannot be imported"):
        works.open(photographs)
