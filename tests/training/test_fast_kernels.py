"""What `run.compile` means on each device, and that a compiled model is the same model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from training.fast_kernels import compile_mode, compile_model, measure_cudnn_kernels

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
