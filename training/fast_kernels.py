"""How PyTorch is asked for fast kernels: cuDNN's by measurement, and the model compiled.

Batches have one shape for a whole run, so both choices are made once, in its first steps.
"""

from __future__ import annotations

import os
import warnings
from typing import Literal, cast

import torch
from torch import nn

CompileSetting = Literal["auto", "none", "default", "reduce-overhead", "max-autotune-no-cudagraphs"]


def use_deterministic_kernels() -> None:
    """Let PyTorch compute the same bits each time, by slower kernels; for the process, before its first step."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(True)


def measure_cudnn_kernels(device: torch.device) -> None:
    """Let cuDNN time its algorithms for each shape and keep the fastest, unless a run must be deterministic."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()


TF32_ADVICE = "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled"
"""How Inductor's warning begins. The four linear layers and the losses are left in float32 so that they are not
rounded to the 10 bits of TF32; they have less than a hundredth of a ResNet-50's multiplications."""


def compile_mode(setting: CompileSetting, device: torch.device) -> str | None:
    """`run.compile` -> the mode of `torch.compile`, None for a model that is not compiled."""
    if setting == "auto":
        return "default" if device.type == "cuda" else None
    return None if setting == "none" else setting


def compile_model(model: nn.Module, mode: str | None) -> nn.Module:
    """The model compiled for fixed shapes, sharing its parameters and buffers; itself where the mode is None.

    To be compiled before DDP wraps it, so that DDP's hooks stay outside of the graph. The model that was given stays
    as it is, for evaluation.
    """
    if mode is None:
        return model
    warnings.filterwarnings("ignore", TF32_ADVICE, UserWarning)
    return cast(nn.Module, torch.compile(model, mode=mode, dynamic=False))
