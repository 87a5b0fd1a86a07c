"""Read a CIFAR pickle without running it: a pickle runs whatever code its author likes.

No name in the file is ever looked up. The few that a CIFAR file needs stand for inert records of this module, every
other is refused, and the pixels come out of the records as plain bytes.
"""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.user_error import UserError


class Inert:
    """Stands for a name in a pickle: keeps what it was called with and the state it was given; does nothing."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class InertArray(Inert):
    """Stands for a NumPy array."""

    def raw_bytes(self, path: Path) -> bytes:
        """Return the bytes of a C-ordered uint8 array.

        Raises:
            UserError: it is anything else; `path` is named.
        """
        match self.state:
            case (int(), tuple(), InertDtype(arguments=("u1", *_)), False, data):
                if isinstance(data, InertEncoded) and data.arguments[1:] == ("latin1",):
                    data = data.arguments[0]
                if isinstance(data, bytes):
                    return data
                if isinstance(data, str):  # Python 2 wrote bytes so
                    with suppress(UnicodeEncodeError):
                        return data.encode("latin-1")
        raise UserError(f"{path}: the pixels are no plain array of bytes; download the file again")


class InertDtype(Inert):
    """Stands for a NumPy dtype."""


class InertEncoded(Inert):
    """Stands for `_codecs.encode(text, "latin1")`, which is how Python 3 writes bytes for Python 2."""


INERT = {
    ("numpy", "ndarray"): Inert,
    ("numpy", "dtype"): InertDtype,
    ("numpy.core.multiarray", "_reconstruct"): InertArray,
    ("numpy._core.multiarray", "_reconstruct"): InertArray,
    ("_codecs", "encode"): InertEncoded,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in INERT:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return INERT[module, name]


def read_inert_pickle(path: Path) -> dict[Any, Any]:
    """Read a pickled dictionary without running anything that the pickle names.

    Raises:
        UserError: the file cannot be read, names anything but NumPy arrays, or is no pickled dictionary.
    """
    try:
        data = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the file: {error.strerror}") from error
    try:
        content = _InertUnpickler(data, encoding="latin-1").load()
    except Exception as error:  # the pickle machine raises whatever a damaged file makes it stumble over
        raise UserError(
            f"{path}: refused, for this is no CIFAR file ({type(error).__name__}: {error}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: no CIFAR file, for it holds no dictionary; download it again")
    return content
