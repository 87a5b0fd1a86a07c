"""GPU time of kernels by stream, from PyTorch's profiler, which sees the kernels of every library in the process.

The trainer computes on its own streams; what runs on others is the data path: a GPU decoder's kernels, which take
multiprocessors from the training.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def kernel_milliseconds(run: Callable[[], object]) -> dict[int, float]:
    """Run something and wait for the device: milliseconds of kernels by the number of their stream."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory(prefix="fasttail-trace-") as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return by_stream(json.loads(path.read_text(encoding="utf-8")))


def by_stream(trace: Mapping[str, list[dict[str, object]]]) -> dict[int, float]:
    """Sum the kernels of a Chrome trace, whose durations are microseconds."""
    sums: dict[int, float] = defaultdict(float)
    for event in trace["traceEvents"]:
        if event.get("cat") == "kernel":
            arguments = event["args"]
            assert isinstance(arguments, dict)
            sums[int(arguments["stream"])] += float(str(event["dur"])) / 1000
    return dict(sums)
