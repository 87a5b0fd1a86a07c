"""Files that must come from the disk: drop them from the page cache, and look whether they are gone."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np


def drop_from_page_cache(path: Path) -> float:
    """Ask the kernel to forget a file's pages; returns the share of them that it still holds, 0 to 1.

    Pages that are mapped by some process, not yet written to the disk, or on a file system in memory stay.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident_share(path)


def resident_share(path: Path) -> float:
    """Return the share of a file's pages that are in the page cache, 0 to 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    length = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) as content:
        pages = np.zeros(-(-length // mmap.PAGESIZE), np.uint8)
        view = np.frombuffer(content, np.uint8)
        failed = libc.mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(length), ctypes.c_void_p(pages.ctypes.data)
        )
        del view  # or the map could not be closed
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return float((pages & 1).mean())
