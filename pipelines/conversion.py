"""A list of images to a beton: every file is looked for first, then encoded by threads and written in order.

Pillow and reads let go of the GIL, so plain threads are enough. Only a few images a thread are ahead of the
writer: memory stays flat whatever the size of the set, and the bytes do not depend on the number of
threads.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pipelines.beton_format import PAGE_SIZE
from pipelines.beton_writer import write_beton
from pipelines.image_bytes import EncodedImage, ImageSettings, encode_image, strict_pillow
from pipelines.sources import ImageList
from pipelines.user_error import UserError
from pipelines.whole_file import check_output

LARGEST_PAGE = 256 << 20
"""Bytes: a source file that is larger is re-encoded smaller, or refused by the writer."""

AHEAD = 8
"""Images a thread that may be encoded before the writer takes them."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did."""

    num_images: int
    num_classes: int
    copied: int
    """Images that went in byte for byte; the others were re-encoded."""
    beton_length: int
    """Bytes."""
    seconds: float


def convert_images(
    images: ImageList,
    root: Path,
    out: Path,
    settings: ImageSettings,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert the images of a list, whose paths are relative to `root`, to the beton `out` and its manifest.

    Nothing is written before every file of the list has been found. On any error, and on Ctrl-C, an earlier
    `out` stays as it was. `workers` threads encode (default: the CPUs that this process may use).

    Raises:
        UserError: the output exists or cannot be written; an image is missing or cannot be read.
    """
    workers = workers or len(os.sched_getaffinity(0))
    start = time.perf_counter()
    check_output(out, overwrite)
    tally = _Tally()
    with ThreadPoolExecutor(workers) as pool, strict_pillow():
        try:
            page_size = _page_size(_find_images(images, root, pool))
            encoded = _encode_in_order(images, root, settings, pool, AHEAD * workers)
            with closing(_with_progress(encoded, len(images), tally)) as counted:
                manifest = write_beton(
                    out,
                    images,
                    counted,
                    settings=dataclasses.asdict(settings),
                    overwrite=overwrite,
                    page_size=page_size,
                )
        finally:
            pool.shutdown(cancel_futures=True)
    return Conversion(
        num_images=len(images),
        num_classes=images.num_classes,
        copied=tally.copied,
        beton_length=manifest.tables.beton_length,
        seconds=time.perf_counter() - start,
    )


@dataclass
class _Tally:
    copied: int = 0


def _with_progress(encoded: Iterator[EncodedImage], total: int, tally: _Tally) -> Generator[EncodedImage]:
    """Pass images on, count those that were copied, and draw a progress bar if stderr is a terminal."""
    megabytes = 0.0
    with tqdm(total=total, unit=" images", unit_scale=True, disable=None) as bar:
        start = time.perf_counter()
        for image in encoded:
            yield image
            tally.copied += image.copied
            megabytes += len(image.data) / 1e6
            rate = megabytes / (time.perf_counter() - start)
            bar.set_postfix_str(f"{rate:.1f} MB/s", refresh=False)
            bar.update()


def _encode_in_order(
    images: ImageList, root: Path, settings: ImageSettings, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[EncodedImage]:
    """Encode on the pool, at most `ahead` images before the one that is wanted; yield in the list's order."""

    def encode(i: int) -> EncodedImage:
        try:
            return encode_image(root / images.path(i), settings)
        except UserError as error:
            raise UserError(f"{images.name}:{i + 1}: {error}") from error

    waiting: deque[Future[EncodedImage]] = deque()
    for i in range(len(images)):
        waiting.append(pool.submit(encode, i))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _find_images(images: ImageList, root: Path, pool: ThreadPoolExecutor) -> int:
    """Look for every file of the list; return the size of the largest, bytes."""
    if not root.is_dir():
        raise UserError(
            f"{root}: not a folder; give --images the folder that the paths of the list start from"
        )

    def look(rows: range) -> tuple[list[int], int]:
        missing, largest = [], 0
        for i in rows:
            size = _file_size(root / images.path(i))
            if size is None:
                missing.append(i)
            else:
                largest = max(largest, size)
        return missing, largest

    looked = list(pool.map(look, [range(i, min(i + 256, len(images))) for i in range(0, len(images), 256)]))
    missing = [i for found, _ in looked for i in found]
    if missing:
        others = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise UserError(
            f"{images.name}:{missing[0] + 1}: {root / images.path(missing[0])}{others} not found; give "
            "--images the folder that the paths start from, or take the rows out of the list"
        )
    return max(largest for _, largest in looked)


def _file_size(path: Path) -> int | None:
    """Return the bytes of a regular file, None if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a path that no file system takes
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _page_size(largest_file: int) -> int:
    """Return the usual page, doubled until the largest source file could be copied into one."""
    page_size = PAGE_SIZE
    while page_size < min(largest_file, LARGEST_PAGE):
        page_size *= 2
    return page_size
