from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from pipelines.thread_pool import ThreadPool, available_cpus, cgroup_quota, cpu_share


def _number_in_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_each_worker_has_one_intra_op_thread_and_nobody_else() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPool(4) as pool:
            barrier = threading.Barrier(4)

            def number() -> int:
                barrier.wait()  # so that each of the four threads answers once
                torch.rand(300, 300) @ torch.rand(300, 300)
                return torch.get_num_threads()

            assert [future.result() for future in [pool.submit(number) for _ in range(4)]] == [1] * 4
            assert torch.get_num_threads() == 3
            assert _number_in_new_thread() == 3
    finally:
        torch.set_num_threads(before)


def test_map_slices_covers_the_range_once() -> None:
    with ThreadPool(3) as pool:
        slices: list[tuple[int, int]] = []
        pool.map_slices(lambda start, stop: slices.append((start, stop)), 17, 5)
        assert sorted(slices) == [(0, 5), (5, 10), (10, 15), (15, 17)]
        pool.map_slices(lambda start, stop: pytest.fail("there is no slice of nothing"), 0, 5)


def test_map_slices_raises_the_first_error_after_all_have_ended() -> None:
    ended: list[int] = []

    def work(start: int, stop: int) -> None:
        time.sleep(0.01 if start == 1 else 0.05)
        ended.append(start)
        if start in (1, 2):
            raise RuntimeError(f"slice {start}")

    with ThreadPool(2) as pool, pytest.raises(RuntimeError, match="slice 1"):
        pool.map_slices(work, 6, 1)
    assert sorted(ended) == list(range(6))


def test_close_leaves_no_thread_and_drops_what_waits() -> None:
    """A task goes on once one has been dropped, so none ends before the pool closes."""
    before = set(threading.enumerate())
    pool, dropped = ThreadPool(2), threading.Event()
    assert len(set(threading.enumerate()) - before) == 2
    futures = [pool.submit(dropped.wait, 600) for _ in range(20)]
    for future in futures:
        future.add_done_callback(lambda _: dropped.set())
    pool.close()
    assert set(threading.enumerate()) <= before
    assert all(future.cancelled() or future.result() for future in futures)
    assert sum(future.cancelled() for future in futures) >= 18


def _write_cgroup(root: Path, membership: str, files: dict[str, str]) -> float | None:
    (root / "cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cgroup_quota(root / "cgroup", root / "fs")


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "max 100000\n", "a/b/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/host/only/path\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", {}, None),
        ("4:memory:/x\n", {"cpu.max": "250000 100000\n"}, None),
        (
            "7:cpuset:/q\n3:cpu,cpuacct:/q\n0::/\n",
            {"cpu/q/cpu.cfs_quota_us": "50000\n", "cpu/q/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_cgroup_quota(tmp_path: Path, membership: str, files: dict[str, str], quota: float | None) -> None:
    assert _write_cgroup(tmp_path, membership, files) == quota


def test_cgroup_quota_without_control_groups(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "missing", tmp_path) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "processes", "share"),
    [(12, None, 1, 12), (12, 7.2, 1, 8), (12, 7.2, 3, 2), (4, 7.2, 1, 4), (12, 7.2, 100, 1), (12, 0.5, 1, 1)],
)
def test_cpu_share(affinity: int, quota: float | None, processes: int, share: int) -> None:
    assert cpu_share(affinity, quota, processes) == share


def test_available_cpus_heeds_the_affinity_mask() -> None:
    seen: list[int] = []

    def bind_to_one_cpu() -> None:  # the mask is that of the calling thread alone
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        seen.append(available_cpus())

    thread = threading.Thread(target=bind_to_one_cpu)
    thread.start()
    thread.join()
    assert seen == [1]
