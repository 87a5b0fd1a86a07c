"""A list of images to a beton: every file is looked at first, then encoded by threads and written in order.

Pillow, reads and the marker walk let go of the GIL, so plain threads are enough. A thread takes many rows at a
time, for small images cost less than handing them over. Only a few tasks a thread are ahead of the writer: memory
stays flat whatever the size of the set, and the bytes do not depend on the number of threads. What is done is noted
a few times a second, so that a conversion that was killed goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from pipelines.beton_format import PAGE_SIZE
from pipelines.beton_journal import Journal
from pipelines.beton_reader import open_beton
from pipelines.beton_writer import BetonWriter, first_page, publish_pair
from pipelines.image_bytes import EncodedImage, ImageSettings, encode_image, strict_pillow
from pipelines.manifest import FORMAT_VERSION, Setting, manifest_path
from pipelines.quick_scan import FoundFiles, in_turn, path_prefix, scan_files
from pipelines.row_order import RowOrder
from pipelines.skipped_rows import write_skipped
from pipelines.sources import ImageList
from pipelines.user_error import UserError
from pipelines.whole_file import check_output, resumable_file

LARGEST_PAGE = 256 << 20
"""Bytes: a source file that is larger is re-encoded smaller, or refused by the writer."""
NOTE_SECONDS = 0.25
"""How much work a kill may cost."""
TASK_BYTES = 256 << 10
"""Source bytes that a thread takes at a time: a fraction of a second even where images are shrunk."""


@dataclass(frozen=True, kw_only=True)
class ConversionSettings:
    """What the bytes of the beton depend on besides the list; all of it is in the manifest."""

    image: ImageSettings
    on_bad: str = "stop"
    """`stop` at a bad image, or `skip` it."""
    order: str = "listed"
    """Of the images in the file: as `listed`, or `shuffled` by the seed."""
    seed: int = 0
    source: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    """Settings of the source, such as an imbalance factor."""

    def named(self) -> dict[str, Setting]:
        """Return all settings by name."""
        own: dict[str, Setting] = {"on_bad": self.on_bad, "order": self.order}
        if self.order == "shuffled":
            own["order_seed"] = self.seed
        return {**dataclasses.asdict(self.image), **own, **self.source}


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


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A conversion that is about to be done."""

    images: ImageList
    prefix: str
    order: RowOrder
    settings: ConversionSettings
    workers: int


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
    job = _Job(
        images=images,
        prefix=path_prefix(root),
        order=RowOrder(n=len(images), seed=settings.seed if settings.order == "shuffled" else None),
        settings=settings,
        workers=workers or len(os.sched_getaffinity(0)),
    )
    with resumable_file(out, overwrite) as file:
        return _convert(job, file, out, start)


def _convert(job: _Job, file: BinaryIO, out: Path, start: float) -> Conversion:
    journal = Journal(out)
    try:
        with ThreadPoolExecutor(job.workers) as pool, strict_pillow():
            try:
                writer, found = _start(job, file, out, journal, pool)
                resumed_from = writer.count
                with writer:
                    _write_images(job, writer, journal, found, pool)
                    manifest = writer.finish(job.settings.named())
                    write_skipped(out, writer.skipped_rows())
                    publish_pair(file, out, manifest)
            finally:
                pool.shutdown(cancel_futures=True)
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


def _start(
    job: _Job, file: BinaryIO, out: Path, journal: Journal, pool: ThreadPoolExecutor
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


def differences(earlier: Mapping[str, Setting], now: Mapping[str, Setting]) -> str:
    """Say in which settings an earlier conversion differs from the one that is asked for now."""
    names = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
    return ", ".join(
        f"another {name}"
        if name in ("list", "images")
        else f"{name} {earlier.get(name)}, now {now.get(name)}"
        for name in names
    )


def _finished(images: ImageList, out: Path, settings: ConversionSettings, start: float) -> Conversion | None:
    """Return what was done if `out` is whole already, of this list and with these settings.

    Raises:
        UserError: it is another file; the differences are named.
    """
    if not (out.is_file() and manifest_path(out).exists()):
        return None
    manifest = open_beton(out).manifest
    assert manifest is not None
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


def _write_images(
    job: _Job, writer: BetonWriter, journal: Journal, found: FoundFiles, pool: ThreadPoolExecutor
) -> None:
    """Encode on the pool, write in the order of the file, and note how far it is."""
    left = len(job.images) - writer.count
    step = max(1, min(256, TASK_BYTES * left // max(1, found.total)))
    tasks = in_turn(pool, _encoder(job), writer.count, len(job.images), step, ahead=2 * job.workers)
    noted = time.monotonic()
    begun, start = writer.position, noted
    bar = tqdm(
        total=len(job.images),
        initial=writer.count,
        unit=" images",
        unit_scale=True,
        disable=None,
        smoothing=0,
    )
    with closing(bar):
        try:
            for encoded in tasks:
                for image in encoded:
                    if isinstance(image, EncodedImage):
                        writer.add(image)
                    else:
                        writer.skip(image)
                now = time.monotonic()
                bar.set_postfix_str(
                    f"{(writer.position - begun) / 1e6 / (now - start):.1f} MB/s", refresh=False
                )
                bar.update(len(encoded))
                if now - noted > NOTE_SECONDS:
                    writer.note(journal)
                    noted = now
            writer.note(journal)
        except (KeyboardInterrupt, UserError):
            writer.note(journal)
            print(
                f"{writer.count:,} of {len(job.images):,} rows are done; the same command goes on from there",
                file=sys.stderr,
            )
            raise


def _encoder(job: _Job) -> Callable[[int, int], list[EncodedImage | str]]:
    """Return the task of a thread: places [start, stop) to images, or to why they are left out."""
    images, prefix, settings = job.images, job.prefix, job.settings

    def encode(start: int, stop: int) -> list[EncodedImage | str]:
        done: list[EncodedImage | str] = []
        for row in job.order.rows(np.arange(start, stop)).tolist():
            path = prefix + images.path(row)
            try:
                done.append(encode_image(path, settings.image))
            except UserError as error:
                if settings.on_bad == "stop":
                    raise UserError(f"{images.name}:{row + 1}: {error}") from error
                done.append(str(error).removeprefix(f"{path}: "))
        return done

    return encode


def _page_size(largest_file: int) -> int:
    """Return the usual page, doubled until the largest source file could be copied into one."""
    page_size = PAGE_SIZE
    while page_size < min(largest_file, LARGEST_PAGE):
        page_size *= 2
    return page_size
