"""What a figure was measured on: the machine, the versions, the commit. A figure without them means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

from pipelines.thread_pool import cgroup_quota, cpu_share
from pipelines.user_error import UserError

Facts = dict[str, str | int | float | None]

PACKAGES = (
    "fasttail",
    "torch",
    "torchvision",
    "triton",
    "ffcv",
    "nvidia-dali-cuda120",
    "numba",
    "numpy",
    "pillow",
    "opencv-python",
    "timm",
)
COMMIT = "FASTTAIL_COMMIT"
"""Environment variable that names the commit where the files are a copy without its history."""


def use_cores(count: int | None) -> int:
    """Keep this process and those that it starts to the first `count` of its cores; None: to all it has.

    Returns how many threads or processes of work that is good for (a cgroup may grant less than the cores).
    """
    cores = sorted(os.sched_getaffinity(0))
    if count is not None:
        if count > len(cores):
            raise UserError(f"--cores {count}: this process may use {len(cores)}; ask for no more than those")
        os.sched_setaffinity(0, cores[:count])
    return cpu_share(count or len(cores), cgroup_quota(), 1)


def machine() -> Facts:
    """Describe the machine as this process may use it, and how busy it is now."""
    quota = cgroup_quota()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": cpu_share(len(os.sched_getaffinity(0)), quota, 1),
        "cores_of_machine": os.cpu_count(),
        "cgroup_quota": quota,
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": _driver(),
        "system": platform.platform(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that make a difference, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def commit() -> str:
    """Return the commit that the files come from, with `(modified)` where some differ from it."""
    if named := os.environ.get(COMMIT):
        return named
    folder = str(Path(__file__).resolve().parents[1])
    head = _output("git", "-C", folder, "rev-parse", "HEAD")
    if not head:
        return f"unknown: no git history here, and {COMMIT} is not set"
    changed = _output("git", "-C", folder, "status", "--porcelain", "--untracked-files=no")
    return f"{head} (modified)" if changed else head


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor()


def _driver() -> str | None:
    text = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return text.splitlines()[0] if text else None


def _output(*command: str) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
