"""What the doctor finds out about GPUs: driver, wheel, names, decoding engines. None of it needs a GPU to ask."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

OLDEST_DRIVER = {"13": 580, "12": 525, "11": 450}
"""Major version of CUDA -> the oldest driver branch that runs it (NVIDIA, "CUDA compatibility", minor versions). Newer
drivers run older CUDA too."""
OLDER_CONSTRAINTS = {"12": "constraints-cuda12.txt"}
"""Major version of CUDA -> the constraint file of this checkout whose PyTorch is for it."""
JPEG_ENGINES = ("A100", "A30", "H100", "H200", "H800", "GH200", "L4", "L40", "L40S", "B100", "B200", "GB200")
"""GPUs with engines that decode baseline JPEGs, by NVIDIA's data sheets; a GPU that is not here may have one."""


@dataclass(frozen=True)
class Gpu:
    """One device."""

    name: str
    capability: str
    memory_gib: float


def gpus() -> list[Gpu]:
    """Return the devices that PyTorch sees."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        Gpu(each.name, f"{each.major}.{each.minor}", round(each.total_memory / 2**30, 1)) for each in found
    ]


def driver_version(proc: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Return the version of NVIDIA's kernel driver, None without one; nvidia-smi need not be there."""
    try:
        text = proc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def driver_advice(driver: str | None, cuda: str | None, sees_gpu: bool) -> tuple[str, str | None]:
    """Say how driver and PyTorch's CUDA go together, and the remedy where they do not."""
    if cuda is None:
        return "PyTorch is a build for the CPU", (
            None if driver is None else "install PyTorch's CUDA build: pip install --force-reinstall torch"
        )
    if driver is None:
        return f"PyTorch for CUDA {cuda}, and no NVIDIA driver: enough for the CPU, not for a GPU", None
    branch = int(driver.partition(".")[0])
    major = cuda.partition(".")[0]
    oldest = OLDEST_DRIVER.get(major, 0)
    said = f"driver {driver}, PyTorch for CUDA {cuda} (needs driver {oldest} or newer)"
    if branch >= oldest:
        return said, None if sees_gpu else "PyTorch sees no GPU all the same: look at CUDA_VISIBLE_DEVICES"
    for older, file in OLDER_CONSTRAINTS.items():
        if branch >= OLDEST_DRIVER[older]:
            return said, (
                f"a newer driver, or PyTorch for CUDA {older}: `export CONSTRAINTS={file}`, then `make install` "
                f"(without make: pip install -c {file} -e .)"
            )
    return (
        said,
        f"a newer driver: the oldest that any supported PyTorch runs on is {min(OLDEST_DRIVER.values())}",
    )


def has_jpeg_engine(name: str) -> bool:
    """Whether a GPU of this name is known to have an engine for JPEGs."""
    return not set(re.split(r"[\s-]+", name)).isdisjoint(JPEG_ENGINES)


def jpeg_engine_answers() -> list[bool] | None:
    """Return, for each GPU, whether the driver reports the use of such an engine; None where nobody can be asked."""
    command = ["nvidia-smi", "--query-gpu=utilization.jpeg", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [bool(re.match(r"\d", line.strip())) for line in done.stdout.splitlines()]
