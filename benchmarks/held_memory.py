"""How much memory this process holds now, on the host and on the GPU."""

from __future__ import annotations

import gc
import importlib
import re
from contextlib import suppress
from pathlib import Path

import torch


def anonymous_memory() -> float:
    """MiB that this process holds now, mapped files left out."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return sum(int(kib) for kib in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", status, re.MULTILINE)) / 1024


def device_memory() -> float:
    """MiB of the GPU that are in use now, by whoever it is; PyTorch and DALI keep some for later."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


def give_back_memory() -> None:
    """Make PyTorch and DALI give the GPU the memory back that they keep for later."""
    gc.collect()
    if not torch.cuda.is_available():
        return
    torch.cuda.empty_cache()
    with suppress(ImportError):
        importlib.import_module("nvidia.dali.backend").ReleaseUnusedMemory()
