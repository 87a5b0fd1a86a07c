"""When kernels ran on a GPU, from PyTorch's profiler, which sees the kernels of every library in the process.

PyTorch's own are on its current stream; what runs on others is the data path: a GPU decoder's kernels, which take
multiprocessors from the training.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

Spans = list[tuple[float, float]]
"""(start, end) of each kernel, milliseconds."""


def kernels_of(run: Callable[[], object]) -> dict[int, Spans]:
    """Run something and wait for the device: its kernels by the number of their stream."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory(prefix="fasttail-trace-") as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return by_stream(json.loads(path.read_text(encoding="utf-8")))


def by_stream(trace: Mapping[str, list[dict[str, object]]]) -> dict[int, Spans]:
    """The kernels of a Chrome trace, whose times are microseconds."""
    spans: dict[int, Spans] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event.get("cat") == "kernel":
            arguments = event["args"]
            assert isinstance(arguments, dict)
            start = float(str(event["ts"])) / 1000
            spans[int(arguments["stream"])].append((start, start + float(str(event["dur"])) / 1000))
    return dict(spans)


def busy_milliseconds(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the kernels ran: what two streams do at once counts once."""
    busy, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy
