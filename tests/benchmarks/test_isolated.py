"""A feed in a process of its own: it answers, is stopped between its runs, ends, and says why it cannot."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from benchmarks.isolated import FeedError, IsolatedFeed
from benchmarks.peer_torch import open_torchvision_v2
from benchmarks.photographs import Photographs


def state(pid: int) -> str:
    """Of a process: R running, S sleeping, T stopped, Z ended."""
    return re.sub(r"^.*\) ", "", Path(f"/proc/{pid}/stat").read_text())[0]


def group(pgid: int) -> list[int]:
    """The processes of a process group."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    members = []
    for pid in pids:
        try:
            if os.getpgid(pid) == pgid and state(pid) != "Z":
                members.append(pid)
        except (ProcessLookupError, FileNotFoundError):
            continue
    return members


def wait_until(condition: object, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_answers_again_and_again_and_is_stopped_in_between(few: Photographs) -> None:
    with IsolatedFeed(open_torchvision_v2, few.folder, 1, 2) as feed:
        pid = feed._process.pid
        for _ in range(2):
            assert 0 < feed.pairs_per_second(0.05) < 1e5
            # the process and the workers of its two loaders
            wait_until(lambda: len(group(pid)) >= 3 and {state(each) for each in group(pid)} == {"T"})
    wait_until(lambda: not group(pid))


def test_why_it_cannot_be_measured_is_told(tmp_path: Path) -> None:
    with (
        IsolatedFeed(open_torchvision_v2, tmp_path, 1, 2) as feed,
        pytest.raises(FeedError, match=r"UserError: .*photographs\.beton: cannot open"),
    ):
        feed.pairs_per_second(0.05)


def test_a_process_that_ends_is_noticed(few: Photographs) -> None:
    with IsolatedFeed(open_torchvision_v2, few.folder, 1, 2) as feed:
        feed._process.kill()
        feed._process.join()
        with pytest.raises(FeedError, match="its process ended"):
            feed.pairs_per_second(0.05)
