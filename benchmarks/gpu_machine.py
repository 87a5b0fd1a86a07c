"""Whether a machine has what the GPU benchmarks and tests need: `python3 -m benchmarks.gpu_machine [STAGE]...`.

A machine that reaches no package registry lacks some of it. What is missing is named, with what it is for, before a
stage fails on it in its middle. The stages of tests need all of it, so with one of them a lack is exit status 1.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import suppress

import torch

from benchmarks.machine import commit, machine, versions
from pipelines.user_error import UserError

BUNDLE = "shared/gpu's bundle, unpacked"
WHEEL = "a wheel in .whl/"
MODULES = {
    "nvidia.dali": ("decode, loader and peers on the GPU", BUNDLE),
    "ffcv": ("stock-ffcv, and tests that read a beton with it", BUNDLE),
    "triton": ("the mix kernel", "PyTorch's CUDA build"),
    "torchvision": ("ResNets and the CPU decoder", WHEEL),
    "jsonargparse": ("the trainer's settings", WHEEL),
    "docstring_parser": (
        "the trainer's settings: jsonargparse does not bring it, and is no use without",
        WHEEL,
    ),
    "yaml": ("the trainer's settings", WHEEL),
    "tqdm": ("the trainer", WHEEL),
    "tensorboard": ("the trainer", WHEEL),
    "matplotlib": ("reports and the benchmarks' pictures", WHEEL),
    "numba": ("everything that runs on the CPU", WHEEL),
    "llvmlite": ("everything that runs on the CPU, beside numba", WHEEL),
    "scipy": ("the draws", WHEEL),
    "PIL": ("photographs", WHEEL),
    "cv2": ("photographs", WHEEL),
    "sklearn": ("photographs", WHEEL),
    "pytest": ("the tests", WHEEL),
    "hypothesis": ("the tests", WHEEL),
    "psutil": ("the tests", WHEEL),
    "safetensors": ("the tests", WHEEL),
    "setuptools": ("the tests", WHEEL),
    "timm": ("its MixUp and CutMix, a row of mix", WHEEL),
}
"""Module -> what needs it, where it comes from. Beside torch and numpy, which this file imports itself, these are all
that the project imports; a test compares."""
PARTICULAR = ("numba", "cv2", "nvidia.dali")
"""Of these, that they are there says little: numba refuses a NumPy that is newer than it, DALI looks for libraries."""
TEST_STAGES = {"tests", "runs"}
ROWS_ONLY = ("timm",)
"""Without these a benchmark has a row less, and no test fails."""


def missing(*, for_tests: bool = False) -> list[str]:
    """A line for each thing that is not here, or only for what the tests cannot do without."""
    lines = []
    if not torch.cuda.is_available():
        lines.append("no CUDA device: nothing of a GPU can be measured")
    for module, (purpose, origin) in MODULES.items():
        if for_tests and module in ROWS_ONLY:
            continue
        if not _is_there(module):
            lines.append(f"no Python module {module}, for {purpose}; it comes from {origin}")
        elif module in PARTICULAR and (refusal := _refusal(module)):
            lines.append(
                f"{module} cannot be imported ({refusal}), for {purpose}; another one comes from {origin}"
            )
    if not for_tests and torch.cuda.is_available() and _is_there("nvidia.dali"):
        lines += _dali_refusal()  # most tests do without
    return [*lines, *_turbojpeg_refusal()]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package
        return False


def _dali_refusal() -> list[str]:
    """Why DALI does not decode, where what it is asked by can be imported."""
    with suppress(ImportError):
        from benchmarks.dali_trial import refusal_of_dali

        if refusal := refusal_of_dali(torch.device("cuda", 0)):
            return [f"DALI decodes nothing on this GPU: {refusal}"]
    return []


def _turbojpeg_refusal() -> list[str]:
    """The library that decodes on the CPU; its module needs numba, whose lack is named by itself."""
    with suppress(ImportError):
        from pipelines.jpeg.turbojpeg import LIBRARY, require_library

        try:
            require_library()
        except UserError:
            return [f"no {LIBRARY}, for decoding on the CPU; it comes from {BUNDLE}"]
    return []


def _refusal(module: str) -> str | None:
    """Why a module cannot be imported, in a line."""
    try:
        importlib.import_module(module)
    except Exception as error:  # DALI raises whatever its libraries do
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def main(stages: list[str]) -> int:
    """Print the machine and what it lacks; exit status 1 if a stage of tests is among `stages` and lacks something."""
    for name, value in {**machine(), **versions(), "commit": commit()}.items():
        print(f"{name}: {value}")
    for line in missing():
        print(f"MISSING: {line}")
    return int(bool(TEST_STAGES & set(stages)) and bool(missing(for_tests=True)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
