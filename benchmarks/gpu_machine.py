"""Whether a machine has what the GPU benchmarks and tests need: `python3 -m benchmarks.gpu_machine`.

A machine that reaches no package registry lacks some of it. What is missing is named, with what it is for, before a
stage fails on it in its middle.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys

import torch

from benchmarks.machine import commit, machine, versions
from pipelines.turbojpeg import LIBRARY

BUNDLE = "shared/gpu's bundle, unpacked"
WHEEL = "a wheel in .whl/"
MODULES = {
    "nvidia.dali": ("decode, loader and peers on the GPU", BUNDLE),
    "ffcv": ("stock-ffcv, and tests that read a beton with it", BUNDLE),
    "triton": ("the mix kernel", "PyTorch's CUDA build"),
    "jsonargparse": ("the tests of the trainer", WHEEL),
    "tqdm": ("the tests of the trainer", WHEEL),
    "tensorboard": ("the tests of the trainer", WHEEL),
    "numba": ("everything that runs on the CPU", WHEEL),
    "sklearn": ("the photographs", WHEEL),
    "pytest": ("the tests", WHEEL),
    "hypothesis": ("the tests", WHEEL),
    "timm": ("its MixUp and CutMix, a row of mix", WHEEL),
}
"""Module -> what needs it, where it comes from."""


def missing() -> list[str]:
    """A line for each thing that is not here."""
    lines = []
    if not torch.cuda.is_available():
        lines.append("no CUDA device: nothing of a GPU can be measured")
    for module, (purpose, origin) in MODULES.items():
        if not _is_there(module):
            lines.append(f"no Python module {module}, for {purpose}; it comes from {origin}")
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        lines.append(f"no {LIBRARY}, for decoding on the CPU; it comes from {BUNDLE}")
    return lines


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package
        return False


def main() -> int:
    """Print the machine and what it lacks."""
    for name, value in {**machine(), **versions(), "commit": commit()}.items():
        print(f"{name}: {value}")
    for line in missing():
        print(f"MISSING: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
