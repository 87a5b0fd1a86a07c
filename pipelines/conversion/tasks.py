"""The images of a list through threads into a beton, in order, with a progress bar and a journal.

A thread takes many rows at a time, for small images cost less than handing them over, and only a few tasks a thread
are ahead of the writer. What is done is noted a few times a second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.journal import Journal
from pipelines.beton.writer import BetonWriter
from pipelines.conversion.image_bytes import encode_image
from pipelines.conversion.quick_scan import FoundFiles
from pipelines.conversion.settings import ConversionSettings
from pipelines.in_turn import Threads, in_turn
from pipelines.sources.image_list import ImageList
from pipelines.sources.row_order import RowOrder
from pipelines.user_error import UserError

NOTE_SECONDS = 0.25
"""How much work a kill may cost."""
TASK_BYTES = 256 << 10
"""Source bytes that a thread takes at a time: a fraction of a second even where images are shrunk."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A conversion that is about to be done."""

    images: ImageList
    prefix: str
    order: RowOrder
    settings: ConversionSettings
    workers: int


def write_images(job: Job, writer: BetonWriter, journal: Journal, found: FoundFiles, pool: Threads) -> None:
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


def _encoder(job: Job) -> Callable[[int, int], list[EncodedImage | str]]:
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
