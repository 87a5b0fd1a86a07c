"""Where numba keeps its machine code: a folder for each state of this package's sources.

numba holds a cached function against the source of its own file only. Others that are inlined into it, from other
modules, may have changed since: after a `git pull` the old machine code would run on, and give wrong pixels. So the
folder's name has a key of all the package's files, and any change is a new, empty folder.

It is not in the source tree, which may be read-only, nor the same for two trees.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"
OURS = "FASTTAIL_NUMBA_CACHE_DIR"
"""What this module set `VARIABLE` to, so that a child, perhaps of another tree, can tell it from the user's wish."""
PACKAGE = Path(__file__).resolve().parent
DAYS_KEPT = 14
"""After its last use, a folder's files are for sources that are no more, or soon compiled again."""


def use_own_cache() -> None:
    """Have numba keep its machine code in the folder for these sources, unless the user has named one.

    It is in the user's cache (`$XDG_CACHE_HOME`, or ~/.cache) or, where that cannot be written, in the temporary
    folder; if there is no room either, numba chooses. Child processes inherit the choice, and make it again.
    """
    numba_config = sys.modules.get("numba.core.config")  # it has read the variable when it was imported
    named = {os.environ.get(VARIABLE, ""), getattr(numba_config, "CACHE_DIR", "")}
    if named - {"", os.environ.get(OURS, "")}:
        return
    folder = _made_folder()
    for variable in (VARIABLE, OURS):
        if folder is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = str(folder)
    if numba_config is not None:
        numba_config.CACHE_DIR = str(folder or "")  # type: ignore[attr-defined]


def _made_folder() -> Path | None:
    """The folder for these sources, which is there and can be written, or None."""
    for find in (_in_home, _in_temporary):
        with suppress(OSError, RuntimeError):  # the latter if nobody knows the user's home
            return _make(find() / f"numba-{_key(PACKAGE)}")
    return None


def _key(package: Path) -> str:
    """Of the package's place, and of its files' names, sizes and times: their contents would take thrice as long."""
    found = [Path(folder, name) for folder, _, names in os.walk(package) for name in names]
    sources = [(str(path), path.stat()) for path in found if path.suffix == ".py"]
    files = sorted((name, status.st_size, status.st_mtime_ns) for name, status in sources)
    return hashlib.sha256(repr((str(package), files)).encode()).hexdigest()[:16]


def _in_home() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "fasttail"


def _in_temporary() -> Path:
    """Make it: others may write around it, and what is in it will be run."""
    folder = Path(tempfile.gettempdir()) / f"fasttail-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_private(folder)
    return folder


def _make(folder: Path) -> Path:
    """Make the folder, whoever else does so just now, and clear away its predecessors; OSError where that fails."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_new = False
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        is_new = True
    _check_private(folder)
    tempfile.TemporaryFile(dir=folder).close()
    os.utime(folder)  # its last use
    if is_new:
        _remove_old(folder.parent)
    return folder


def _check_private(folder: Path) -> None:
    """Raise OSError unless this is the user's and closed to all others, which no link is."""
    status = folder.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not the user's own")


def _remove_old(parent: Path) -> None:
    oldest = time.time() - DAYS_KEPT * 24 * 3600
    with suppress(OSError):
        for folder in parent.glob("numba-*"):
            if folder.lstat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
