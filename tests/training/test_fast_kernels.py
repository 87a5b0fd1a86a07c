"""What `run.compile` means on each device, and that a compiled model is the same model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from pipelines.user_error import UserError
from training.build import build_image_works
from training.command_line import build_parser, parse_config
from training.fast_kernels import (
    compile_mode,
    compile_model,
    measure_cudnn_kernels,
    use_deterministic_kernels,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_modes() -> None:
    assert compile_mode("auto", CPU) is None
    assert compile_mode("auto", GPU) == "default"
    assert compile_mode("none", GPU) is None
    assert compile_mode("default", CPU) == "default"
    assert compile_mode("reduce-overhead", GPU) == "reduce-overhead"


def test_a_model_that_is_not_compiled_is_itself() -> None:
    model = nn.Linear(2, 2)
    assert compile_model(model, None) is model


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # Inductor's own
def test_a_compiled_model_trains_the_parameters_of_the_given_one() -> None:
    """Inductor itself: values and gradients of a small network, and no second compilation for a second batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    compiled = compile_model(model, "default")
    torch._dynamo.utils.counters.clear()
    # no processes and no precompiled headers for a kernel or two
    with torch._inductor.config.patch(compile_threads=1, cpp_cache_precompile_headers=False):
        for seed in range(2):
            images = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
            expected = model(images)
            (wanted,) = torch.autograd.grad(expected.square().sum(), [model[0].weight])
            model.zero_grad()
            ours = compiled(images)
            ours.square().sum().backward()
            torch.testing.assert_close(ours, expected)
            torch.testing.assert_close(model[0].weight.grad, wanted, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_inductors_advice_on_tf32_is_no_warning_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words, which it has for a GPU of 2020 or later."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    advise = torch._inductor.compile_fx._warn_tf32_disabled.__wrapped__
    with pytest.warns(UserWarning, match="Consider setting"):
        advise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_model(nn.Linear(2, 2), "default")
        advise()


@pytest.fixture
def cudnn_benchmark() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = before


def test_cudnn_measures_on_a_gpu_unless_the_run_is_deterministic(cudnn_benchmark: None) -> None:
    torch.backends.cudnn.benchmark = False
    measure_cudnn_kernels(CPU)
    assert not torch.backends.cudnn.benchmark
    measure_cudnn_kernels(GPU)
    assert torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    try:
        measure_cudnn_kernels(GPU)
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_deterministic_run_asks_for_it_before_cublas_is_used(
    cudnn_benchmark: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        use_deterministic_kernels()
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch._inductor.config.deterministic, "no compiled kernel is chosen by its time"
        torch.backends.cudnn.benchmark = True
        measure_cudnn_kernels(GPU)
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_which_engine_decodes_must_not_be_left_to_chance(options: Callable[..., list[str]]) -> None:
    """Known from the settings alone, so no GPU is needed to be refused."""
    arguments = ["--run.deterministic", "true", "--view.crop", "resized"]
    with ThreadPool(1) as pool:
        config, _ = parse_config(build_parser("test", ""), options(Path("unused"), *arguments))
        with pytest.raises(
            UserError, match=r"dali\.hardware_share is 0\.65: .* set dali\.hardware_share to 0 or 1"
        ):
            build_image_works(config, RankSlice(0, 1), GPU, pool)
