"""One process of a run over n images, as far as n matters: `python -m benchmarks.scaling_process BETON PAIRS SECONDS`.

Prints JSON: seconds and MiB of opening and of building the loader, and milliseconds of all draws of a step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.held_memory import anonymous_memory
from benchmarks.measurement import CROP_FLIP, OFFICIAL
from benchmarks.our_feeds import paired_loader
from pipelines.beton.reader import open_beton
from pipelines.thread_pool import ThreadPool

RUNS = 5


def measure(path: Path, pairs: int, seconds: float) -> dict[str, float | list[float]]:
    """Open, build, and draw steps for `seconds` in each of `RUNS` runs, with and without the official colours."""
    found: dict[str, float | list[float]] = {}
    with ThreadPool(1) as pool:
        memory, start = anonymous_memory(), time.perf_counter()
        beton = open_beton(path)
        found["open_seconds"] = time.perf_counter() - start
        found["open_memory"] = anonymous_memory() - memory
        memory, start = anonymous_memory(), time.perf_counter()
        loader = paired_loader(beton, pool, pairs, CROP_FLIP)
        loader.draw_step(0)  # the first step compiles or loads what is compiled
        found["build_seconds"] = time.perf_counter() - start
        found["build_memory"] = anonymous_memory() - memory
        for augmentation in (CROP_FLIP, OFFICIAL):
            loader = paired_loader(beton, pool, pairs, augmentation)
            found[augmentation] = [
                _milliseconds(loader.draw_step, 1 + 10_000 * run, seconds) for run in range(RUNS)
            ]
    return found


def _milliseconds(draw_step: object, first: int, seconds: float) -> float:
    """The median time of one step."""
    assert callable(draw_step)
    times: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or not times:
        begin = time.perf_counter()
        draw_step(first + len(times))
        times.append(1000 * (time.perf_counter() - begin))
    return median(times)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
