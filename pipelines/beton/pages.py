"""The pages of a beton: images one after the other, none across the end of a page, each page with its digest.

The thread that fills a page only copies; another one writes and digests the page before it, for both let go of
the GIL. Two buffers are all the memory there is.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class PageWriter:
    """Fills pages of the open file `descriptor` from `first_page` on; a context manager."""

    def __init__(self, descriptor: int, first_page: int, page_size: int) -> None:
        self.page_size = page_size
        self.page_start = first_page
        """Where the page that is being filled starts."""
        self.used = 0
        """Bytes of it."""
        self.digests: list[bytes] = []
        """SHA-256 of every page before it, as far as they are written."""
        self._descriptor = descriptor
        self._buffers = [bytearray(page_size), bytearray()]  # the second is made when it is wanted
        self._written = 0  # bytes of the page that `flush` has written already
        self._pending: Future[bytes] | None = None
        self._thread = ThreadPoolExecutor(1)

    @property
    def position(self) -> int:
        """Where the next image goes if it fits into the page."""
        return self.page_start + self.used

    def go_on(self, position: int, digests: list[bytes]) -> None:
        """Take up a file that is written up to `position`, which is in the page after those of the digests."""
        self.page_start += len(digests) * self.page_size
        self.used = self._written = position - self.page_start
        self.digests = list(digests)
        part = memoryview(self._buffers[0])[: self.used]
        assert os.preadv(self._descriptor, [part], self.page_start) == self.used

    def append(self, data: bytes) -> int:
        """Put the bytes of an image, at most a page, into the file; return where they start."""
        size = len(data)
        if self.used + size > self.page_size:
            self._finish_page()
        start = self.used
        self._buffers[0][start : start + size] = data
        self.used = start + size
        return self.page_start + start

    def flush(self) -> int:
        """Hand all bytes to the operating system; return the CRC-32 of the page that is being filled."""
        self._wait()
        part = memoryview(self._buffers[0])[: self.used]
        _write(self._descriptor, part[self._written :], self.page_start + self._written)
        self._written = self.used
        return zlib.crc32(part)

    def end(self) -> int:
        """Fill the last page with zeros and write it; return where the pages end."""
        self._finish_page()
        self._wait()
        return self.page_start

    def _finish_page(self) -> None:
        self._wait()
        buffer = self._buffers[0]
        buffer[self.used :] = bytes(self.page_size - self.used)
        self._pending = self._thread.submit(
            _write_page, self._descriptor, buffer, self.page_start, self._written
        )
        self._buffers = [self._buffers[1] or bytearray(self.page_size), buffer]
        self.page_start += self.page_size
        self.used = self._written = 0

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.digests.append(pending.result())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def _write_page(descriptor: int, page: bytearray, start: int, written: int) -> bytes:
    _write(descriptor, memoryview(page)[written:], start + written)
    return hashlib.sha256(page).digest()


def _write(descriptor: int, data: memoryview, start: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, start)
        data, start = data[count:], start + count
