"""Two ways from image files to a beton: our converter, and FFCV's own DatasetWriter as its documentation uses it.

Also a program (`python -m benchmarks.converters`), for the memory that one of them takes is that of a process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import ImageSettings
from pipelines.conversion.settings import ConversionSettings
from pipelines.sources.image_list import from_rows

QUALITY = 90
CHUNK = 32
"""Images that a process of FFCV's takes at a time: fewer than its 100, so that all end together."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One conversion."""

    folder: str
    files: list[str]
    """Names of image files in the folder."""
    out: str
    workers: int
    """Threads of ours, processes of FFCV's."""
    max_size: int | None = None
    """Pixels of the longer side."""
    check: str = "codes"
    """As ours has it; FFCV checks nothing."""


def convert_with_ours(task: Task) -> None:
    """Whole and on the disk when this returns."""
    labels = [0] * len(task.files)
    images = from_rows(task.files, labels, ["all"], kind="list", name="benchmark")
    image = ImageSettings(max_size=task.max_size, quality=QUALITY, check=task.check)
    convert_images(
        images,
        Path(task.folder),
        Path(task.out),
        ConversionSettings(image=image),
        workers=task.workers,
        overwrite=True,
    )


class FileDataset:
    """A data set as FFCV's writer wants it: (RGB image, label)."""

    def __init__(self, folder: str, files: list[str]) -> None:
        self.paths = [f"{folder}/{name}" for name in files]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        """Decode as torchvision's ImageFolder does."""
        with Image.open(self.paths[i]) as image:
            return image.convert("RGB"), 0


def convert_with_ffcv(task: Task) -> None:
    """Each image is decoded and encoded again. Flushed as ours is, or our next run would wait for its bytes."""
    from ffcv.fields import IntField, RGBImageField  # here, for ours must not pay for its imports
    from ffcv.writer import DatasetWriter

    field = RGBImageField(write_mode="jpg", max_resolution=task.max_size, jpeg_quality=QUALITY)
    writer = DatasetWriter(task.out, {"image": field, "label": IntField()}, num_workers=task.workers)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        writer.from_indexed_dataset(FileDataset(task.folder, task.files), chunksize=CHUNK)
    with Path(task.out).open("rb") as file:
        os.fsync(file.fileno())


CONVERTERS: dict[str, Callable[[Task], None]] = {"ours": convert_with_ours, "ffcv": convert_with_ffcv}


def command(converter: str, task: Task, folder: Path) -> list[str]:
    """Arguments for `python` that run the task in a process of its own; the task goes to a file in `folder`."""
    path = folder / "task.json"
    path.write_text(json.dumps(asdict(task)), encoding="utf-8")
    return ["-m", "benchmarks.converters", converter, str(path)]


if __name__ == "__main__":
    CONVERTERS[sys.argv[1]](Task(**json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))))
