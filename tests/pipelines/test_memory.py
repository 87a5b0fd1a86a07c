"""Memory that is left: the machine's, and under limits of control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pipelines.memory import available_memory

MEMINFO = "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\nBuffers: 1 kB\n"


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A folder with a `meminfo` of 8000 kB and an empty `groups`."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "groups").mkdir()
    return tmp_path


def left(folder: Path, membership: str) -> int:
    (folder / "membership").write_text(membership)
    return available_memory(folder / "meminfo", folder / "membership", folder / "groups")


def limit(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_here_it_is_at_most_what_psutil_says() -> None:
    before, ours = psutil.virtual_memory().available, available_memory()
    assert 0 < ours < 1.2 * max(before, psutil.virtual_memory().available)


def test_without_limits_it_is_the_machines(group: Path) -> None:
    assert left(group, "0::/job\n") == 8000 * 1024
    limit(group / "groups" / "job", {"memory.max": "max\n", "memory.current": "5\n"})
    assert left(group, "0::/job\n") == 8000 * 1024


def test_the_tightest_group_counts_without_its_page_cache(group: Path) -> None:
    stat = "anon 900000\ninactive_file 70000\nactive_file 30000\nworkingset_refault_file 999\n"
    limit(
        group / "groups" / "job" / "step",
        {"memory.max": "2000000\n", "memory.current": "1000000\n", "memory.stat": stat},
    )
    assert left(group, "0::/job/step\n") == 2000000 - 1000000 + 100000
    limit(
        group / "groups" / "job",
        {"memory.max": "1500000\n", "memory.current": "1400000\n", "memory.stat": "inactive_file 0\n"},
    )
    assert left(group, "0::/job/step\n") == 100000


def test_version_1(group: Path) -> None:
    stat = "inactive_file 1\nactive_file 2\ntotal_inactive_file 3000\ntotal_active_file 4000\n"
    limit(
        group / "groups" / "memory" / "job",
        {"memory.limit_in_bytes": "50000", "memory.usage_in_bytes": "20000", "memory.stat": stat},
    )
    assert left(group, "4:cpu:/x\n3:memory:/job\n") == 50000 - 20000 + 7000
    assert left(group, "3:cpu:/job\n") == 8000 * 1024
