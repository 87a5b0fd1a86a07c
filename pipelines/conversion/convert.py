"""A list of images to a beton: every file is looked at first, then encoded by threads and written in order.

Decoding, shrinking, encoding, reads and the marker walk let go of the GIL, so plain threads are enough. A thread takes
many rows at a time, for small images cost less than handing them over. Only a few tasks a thread are ahead of the
writer: memory stays flat whatever the size of the set, and the bytes do not depend on the number of threads. What is
done is noted a few times a second, so that a conversion that was killed goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipelines.beton.format import PAGE_SIZE
from pipelines.beton.journal import Journal
from pipelines.beton.manifest import FORMAT_VERSION, Setting, manifest_path
from pipelines.beton.reader import open_beton
from pipelines.beton.writer import BetonWriter, first_page, publish_pair
from pipelines.conversion.quick_scan import FoundFiles, path_prefix, scan_files
from pipelines.conversion.settings import ConversionSettings, differences
from pipelines.conversion.skipped_rows import write_skipped
from pipelines.conversion.tasks import Job, write_images
from pipelines.in_turn import Threads
from pipelines.sources.image_list import ImageList
from pipelines.sources.row_order import RowOrder
from pipelines.strict_pillow import strict_pillow
from pipelines.user_error import UserError
from pipelines.whole_file import check_output, hidden_path, resumable_file

LARGEST_PAGE = 256 << 20
"""Bytes: a source file that is larger is re-encoded smaller, or refused by the writer."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did."""

    num_images: int
    num_classes: int
    copied: int
    """Images that went in byte for byte; the others were re-encoded."""
    skipped: int
    """Rows that were left out."""
    resumed_from: int
    """Rows that an earlier run had done."""
    beton_length: int
    """Bytes."""
    seconds: float
    already: bool = False
    """Whether the file was finished before."""


def convert_images(
    images: ImageList,
    root: Path,
    out: Path,
    settings: ConversionSettings,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert the images of a list, whose paths are relative to `root`, to the beton `out` and its manifest.

    Nothing is written before every file of the list has been looked at. On any error, and on Ctrl-C, an earlier
    `out` stays as it was, and what is done so far stays hidden beside it for the same call to go on with.
    `workers` threads encode (default: the CPUs that this process may use).

    Raises:
        UserError: the output exists, made otherwise, or cannot be written; an image is bad (unless skipped).
    """
    start = time.perf_counter()
    if not overwrite and (finished := _finished(images, out, settings, start)):
        return finished
    check_output(out, overwrite)
    job = Job(
        images=images,
        prefix=path_prefix(root),
        order=RowOrder(n=len(images), seed=settings.seed if settings.order == "shuffled" else None),
        settings=settings,
        workers=workers or len(os.sched_getaffinity(0)),
    )
    with resumable_file(out, overwrite) as file:
        return _convert(job, file, out, start)


def _convert(job: Job, file: BinaryIO, out: Path, start: float) -> Conversion:
    journal = Journal(out)
    try:
        with _threads(job) as pool, strict_pillow():
            writer, found = _start(job, file, out, journal, pool)
            resumed_from = writer.count
            with writer:
                write_images(job, writer, journal, found, pool)
                manifest = writer.finish(job.settings.named())
                write_skipped(out, writer.skipped_rows())
                publish_pair(file, out, manifest)
        journal.remove()
    finally:
        journal.close()
        if os.fstat(file.fileno()).st_size == 0:  # then the partial file goes too
            journal.remove()
    return Conversion(
        num_images=manifest.num_images,
        num_classes=job.images.num_classes,
        copied=writer.copied,
        skipped=len(writer.skipped),
        resumed_from=resumed_from,
        beton_length=manifest.tables.beton_length,
        seconds=time.perf_counter() - start,
    )


@contextmanager
def _threads(job: Job) -> Iterator[Threads]:
    """The threads that encode; what has not begun is dropped at the end."""
    if job.settings.image.may_shrink:
        # Imported here, for PyTorch takes a second. Each thread runs its operators on itself alone then.
        from pipelines.thread_pool import ThreadPool

        with ThreadPool(job.workers) as pool:
            yield pool
        return
    executor = ThreadPoolExecutor(job.workers)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _start(
    job: Job, file: BinaryIO, out: Path, journal: Journal, pool: Threads
) -> tuple[BetonWriter, FoundFiles]:
    """Look at the files that are still to do; return a writer that stands where an earlier run stopped."""
    identity: dict[str, Setting] = {
        "format": FORMAT_VERSION,
        "list": job.images.sha256,
        "images": str(Path(job.prefix).resolve()),
        **job.settings.named(),
    }
    page_size = _earlier_page_size(journal, identity, file, out)
    progress = None
    if page_size is not None:
        progress = journal.go_on(file, first_page(len(job.images), page_size), page_size)
    done = len(progress.placed) if progress else 0
    stop = job.settings.on_bad == "stop"
    found = scan_files(job.images, job.prefix, job.order, done, stop=stop, pool=pool)
    if page_size is None or progress is None:
        page_size = _page_size(found.largest)
        file.truncate(0)
        journal.begin({**identity, "page_size": page_size})
    writer = BetonWriter(file, job.images, job.order, page_size)
    if progress is not None:
        writer.go_on(progress)
    return writer, found


def _earlier_page_size(
    journal: Journal, identity: dict[str, Setting], file: BinaryIO, out: Path
) -> int | None:
    """Return the page size of a partial file that was made of the same list in the same way, else None."""
    earlier = journal.identity()
    if earlier is None or os.fstat(file.fileno()).st_size == 0:
        file.truncate(0)
        return None
    page_size = earlier.pop("page_size", None)
    if earlier != identity or not isinstance(page_size, int):
        differing = differences(earlier, identity)
        print(
            f"{out}: a partial file of an earlier run is discarded, for it was made otherwise ({differing})",
            file=sys.stderr,
        )
        file.truncate(0)
        return None
    return page_size


def _finished(images: ImageList, out: Path, settings: ConversionSettings, start: float) -> Conversion | None:
    """Return what was done if `out` is whole already, of this list and with these settings.

    Raises:
        UserError: it is another file; the differences are named.
    """
    if not (out.is_file() and manifest_path(out).exists()):
        return None
    manifest = open_beton(out).manifest
    assert manifest is not None
    if not hidden_path(out).exists():
        Journal(out).remove()  # its run was killed after the very last step but this
    earlier = {"list": manifest.source.sha256, **manifest.settings}
    now = {"list": images.sha256, **settings.named()}
    if earlier != now:
        raise UserError(
            f"{out}: exists already, made otherwise ({differences(earlier, now)}); give --overwrite to replace "
            "it, or another name"
        )
    return Conversion(
        num_images=manifest.num_images,
        num_classes=images.num_classes,
        copied=0,
        skipped=manifest.skipped,
        resumed_from=len(images),
        beton_length=manifest.tables.beton_length,
        seconds=time.perf_counter() - start,
        already=True,
    )


def _page_size(largest_file: int) -> int:
    """Return the usual page, doubled until the largest source file could be copied into one."""
    page_size = PAGE_SIZE
    while page_size < min(largest_file, LARGEST_PAGE):
        page_size *= 2
    return page_size
