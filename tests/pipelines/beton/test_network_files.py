"""Which file systems are remote, against coreutils' stat; and images read by pread are those that are mapped."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipelines.beton.network_files import (
    NETWORK_FILE_SYSTEMS,
    PreadFile,
    file_system_type,
    network_file_system,
)
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.user_error import UserError


@pytest.mark.parametrize("path", ["/", "/proc", "/dev/shm", "/sys"])
def test_type_is_that_of_coreutils(path: str) -> None:
    known = subprocess.run(["stat", "-f", "-c", "%t", path], capture_output=True, text=True, check=True)
    assert file_system_type(Path(path)) == int(known.stdout, 16)


def test_this_machines_own_files_are_not_remote() -> None:
    assert network_file_system(Path("/dev/shm")) is None
    assert network_file_system(Path("/proc")) is None
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        file_system_type(Path("/nowhere"))


def test_images_are_the_same_read_and_mapped(photographs: BetonFile, digits: BetonFile) -> None:
    for mapped in (photographs, digits):
        read = open_beton(mapped.path, pread=True)
        for i in range(0, mapped.num_images, 5):
            theirs, ours = mapped.image_bytes(i), read.image_bytes(i)
            assert not np.shares_memory(ours, read.content)
            assert np.shares_memory(theirs, mapped.content)
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(open_beton(digits.path, pread=True).raw_images(), digits.raw_images())


def test_a_file_here_is_mapped_and_one_on_a_network_is_read(
    photographs: BetonFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_beton(photographs.path).images_by_pread is None
    monkeypatch.setitem(NETWORK_FILE_SYSTEMS, file_system_type(photographs.path), "this one")
    assert open_beton(photographs.path).images_by_pread is not None
    assert open_beton(photographs.path, pread=False).images_by_pread is None


def test_many_threads_read_one_file(photographs: BetonFile) -> None:
    read = open_beton(photographs.path, pread=True)
    order = np.random.default_rng(0).integers(0, read.num_images, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        for i, data in zip(order, pool.map(read.image_bytes, order), strict=True):
            assert data.tobytes() == photographs.image_bytes(i).tobytes()


def test_a_file_that_shrank_or_fails_is_named(photographs: BetonFile, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    file = PreadFile(path)
    assert file.read(90, 10).tolist() == [0] * 10
    with pytest.raises(UserError, match=r"x: has ended before byte 100, where data should be"):
        file.read(95, 10)
    with pytest.raises(UserError, match=r"cannot read at byte 0: Is a directory; .*--data.stage local"):
        PreadFile(tmp_path).read(0, 1)
    shorter = dataclasses.replace(photographs, images_by_pread=file)
    with pytest.raises(UserError, match=r"has ended before byte [\d,]+, where"):
        shorter.image_bytes(photographs.num_images - 1)


def test_a_file_is_closed_with_its_beton(photographs: BetonFile) -> None:
    def held(pread: bool) -> tuple[int, int]:
        gc.collect()  # files of earlier tests are not to be closed in between
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        opened = [open_beton(photographs.path, pread=pread) for _ in range(5)]
        while_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        del opened
        return while_open - before, len(os.listdir("/proc/self/fd")) - before  # noqa: PTH208

    mapped, after = held(pread=False)
    assert after == 0
    assert held(pread=True) == (mapped + 5, 0)
