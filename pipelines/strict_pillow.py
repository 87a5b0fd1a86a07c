"""What Pillow only warns of, decided: huge images are errors, odd files no news."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow's warning of a huge image an error, which `explained` reports, and silence the others.

    Warnings' filters belong to the process: enter this in the main thread, around the threads that encode.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # corrupt EXIF, odd palettes
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
