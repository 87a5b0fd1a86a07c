"""What is dropped is gone, what is read is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.page_cache import drop_from_page_cache, resident_share

PAGE = os.sysconf("SC_PAGE_SIZE")


def test_a_read_file_is_resident_and_a_dropped_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1000 * PAGE + 1))
    path.read_bytes()
    assert resident_share(path) == 1
    left = drop_from_page_cache(path)
    if left == 1:
        pytest.skip("this machine refuses to drop a file from its page cache")
    assert left == 0


def test_the_share_is_that_of_the_pages(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000 * PAGE))
    if drop_from_page_cache(path) > 0:
        pytest.skip("this machine refuses to drop a file from its page cache")
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        for page in range(0, 250):
            os.pread(file.fileno(), 1, page * PAGE)
    assert 0.25 <= resident_share(path) < 0.5
