"""Files on a network file system: which they are, and how their bytes are read.

A page fault on a mapped network file fetches a few pages, holds its thread until the server has answered, and
becomes SIGBUS, which kills the process without a word, when the server fails. A `pread` of an image asks for all of
it at once, lets go of the GIL, and fails as an exception that can name the file.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.user_error import UserError

NETWORK_FILE_SYSTEMS = {
    0x6969: "nfs",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x65735546: "fuse",
    0x00C36400: "ceph",
    0x19830326: "beegfs",
    0x5346414F: "afs",
    0x01021997: "9p",
}
"""`f_type` of statfs(2) -> name; from statfs(2), linux/magic.h, and the clients of Lustre, GPFS and BeeGFS. FUSE is
among them, for sshfs, s3fs and most clients of object stores are FUSE."""


def file_system_type(path: Path) -> int:
    """Return `f_type` of statfs(2), 32 bits: the kind of file system that holds `path`.

    Raises `OSError` as statfs does. Python's `os.statvfs` leaves this number out.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    answer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes; its first field is a long
    if libc.statfs(os.fsencode(path), answer) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))
    kind = int.from_bytes(answer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)
    return kind & 0xFFFFFFFF  # 32-bit numbers with the highest bit set, as cifs, may come sign-extended


def network_file_system(path: Path) -> str | None:
    """Return the name of the network file system that holds `path`, or None if the file is on this machine."""
    return NETWORK_FILE_SYSTEMS.get(file_system_type(path))


class PreadFile:
    """A file that is open for as long as this object; `read` may be called from many threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, length: int) -> NDArray[np.uint8]:
        """Return the (length,) uint8 from byte `start`, in memory of their own.

        DALI reads them until its batch is made, and the CPU decoder gains nothing by memory used again: 4 µs of the
        millisecond that an image of 108 kB takes it.

        Raises `UserError` where the file has become shorter or cannot be read.
        """
        out = np.empty(length, np.uint8)
        done = 0
        while done < length:
            try:
                got = os.preadv(self._descriptor, [out.data[done:]], start + done)
            except OSError as error:
                raise UserError(
                    f"{self.path}: cannot read at byte {start + done:,}: {error.strerror}; look at the file system "
                    "it is on, or copy it once a node with --data.stage local"
                ) from error
            if got == 0:
                raise UserError(
                    f"{self.path}: has ended before byte {start + done:,}, where data should be: it was changed while "
                    "it was open; copy or convert it again"
                )
            done += got
        return out
