"""Machine code is kept for the sources it was made from: real processes of a small package around the real module."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pipelines"
INNER = "from numba import njit\n\n@njit\ndef times(x):\n    return 2 * x\n"
OUTER = """
from numba import njit
from pipelines.part.inner import times

@njit(cache=True)
def caller(x):
    return times(x) + 1
"""
CALL = """
import json, os
from pipelines.outer import caller
result = caller(10)
print(json.dumps([result, sum(caller.stats.cache_hits.values()), os.environ.get("NUMBA_CACHE_DIR")]))
"""
FOLDER = (
    'import os, sys, pipelines; assert "numba" not in sys.modules; print(os.environ.get("NUMBA_CACHE_DIR"))'
)


class Place(NamedTuple):
    """Folders of a user."""

    root: Path
    """The tree, with `pipelines` in it."""
    home: Path
    temporary: Path

    def environment(self, **changes: str | Path) -> dict[str, str]:
        """Without byte code, which Python takes for the same file's when size and second of change agree."""
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        own = {"HOME": self.home, "TMPDIR": self.temporary, "PYTHONPATH": self.root, **changes}
        return kept | {"PYTHONDONTWRITEBYTECODE": "1"} | {name: str(value) for name, value in own.items()}

    def run(self, code: str, **changes: str | Path) -> str:
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(
            command, env=self.environment(**changes), cwd=self.home.parent, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def call(self, **changes: str | Path) -> list[int | str | None]:
        """The result of `caller(10)`, how often numba found it in its cache, and NUMBA_CACHE_DIR."""
        return json.loads(self.run(CALL, **changes))


def make_tree(root: Path) -> Path:
    """A package of the real name and `__init__`, of two modules, one a level down, and the one under test."""
    package = root / "pipelines"
    (package / "part").mkdir(parents=True)
    for name in ("__init__.py", "compiled_cache.py"):
        shutil.copy(PACKAGE / name, package)
    (package / "part" / "inner.py").write_text(INNER)
    (package / "outer.py").write_text(OUTER)
    return root


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(make_tree(tmp_path / "tree"), tmp_path / "home", tmp_path / "temporary")
    place.home.mkdir()
    place.temporary.mkdir()
    return place


def compiled_files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb[ci]")}


def test_a_change_of_an_inlined_function_is_seen(place: Place) -> None:
    results = [place.call()[0]]
    (place.root / "pipelines" / "part" / "inner.py").write_text(INNER.replace("2", "3"))
    assert [*results, place.call()[0]] == [21, 31]


def test_unchanged_sources_find_their_machine_code(place: Place) -> None:
    _, hits, folder = place.call()
    assert hits == 0 and Path(folder).parent == place.home / ".cache" / "fasttail"
    written = compiled_files(place.root.parent)
    assert {path.suffix for path in written} == {".nbi", ".nbc"} and written == compiled_files(Path(folder))
    assert place.call() == [21, 1, folder]
    assert compiled_files(place.root.parent) == written


def test_the_users_folder_is_left_alone(place: Place, tmp_path: Path) -> None:
    own = tmp_path / "own"
    assert place.call(NUMBA_CACHE_DIR=own) == [21, 0, str(own)]
    assert compiled_files(own)
    assert place.run(FOLDER, NUMBA_CACHE_DIR=own, FASTTAIL_NUMBA_CACHE_DIR="/of/a/parent") == str(own)
    code = "import numba; numba.config.CACHE_DIR = 'x'; import pipelines; print(numba.config.CACHE_DIR)"
    assert place.run(code) == "x"
    assert not (place.home / ".cache").exists()


def test_numba_may_have_been_imported_before(place: Place) -> None:
    _, _, folder = json.loads(place.run("import numba" + CALL))
    assert compiled_files(place.root.parent) == compiled_files(Path(folder)) != {}


def test_a_child_of_another_tree_has_a_folder_of_its_own(place: Place, tmp_path: Path) -> None:
    other = make_tree(tmp_path / "other")
    for path in (place.root / "pipelines").rglob("*"):
        shutil.copystat(path, other / path.relative_to(place.root))
    child = f"""
import subprocess, sys
for root in ({str(place.root)!r}, {str(other)!r}):
    subprocess.run([sys.executable, "-c", {FOLDER!r}], env=os.environ | {{"PYTHONPATH": root}}, check=True)
"""
    parent, same, different = place.run(FOLDER + "; sys.stdout.flush()" + child).split()
    assert parent == same != different
    assert Path(parent).parent == Path(different).parent


def test_a_home_that_cannot_be_written(place: Place) -> None:
    place.home.rmdir()
    place.home.touch()
    result, _, folder = place.call()
    own = place.temporary / f"fasttail-{os.geteuid()}"
    assert result == 21 and Path(folder).parent == own
    assert own.stat().st_mode & 0o777 == Path(folder).stat().st_mode & 0o777 == 0o700
    assert compiled_files(own)


@pytest.mark.parametrize("kind", ["writable by others", "another's", "a link", "a file"])
def test_a_temporary_folder_that_others_may_have_made_is_not_used(
    place: Place, kind: str, tmp_path: Path
) -> None:
    own = place.temporary / f"fasttail-{os.geteuid()}"
    if kind == "writable by others":
        own.mkdir()
        own.chmod(0o770)
    elif kind == "another's":
        own.mkdir(mode=0o700)
        try:
            os.chown(own, os.geteuid() + 1, -1)
        except PermissionError:
            pytest.skip("this machine refuses to give a folder to another user: only root may")
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        own.symlink_to(tmp_path / "elsewhere")
    else:
        own.touch()
    inherited = {"NUMBA_CACHE_DIR": "/of/a/parent", "FASTTAIL_NUMBA_CACHE_DIR": "/of/a/parent"}
    assert place.run(FOLDER, XDG_CACHE_HOME="/proc/none", **inherited) == "None"


def test_a_folder_that_others_can_write_is_not_used(place: Place) -> None:
    folder = Path(place.run(FOLDER))
    folder.chmod(0o720)
    assert Path(place.run(FOLDER)).parent.parent == place.temporary


def test_folders_unused_for_two_weeks_go(place: Place) -> None:
    first = Path(place.run(FOLDER))
    day = 24 * 3600
    ages = {"numba-old": 15, "numba-young": 13, "photographs": 15}
    for name, days in ages.items():
        (first.parent / name / "pipelines_0").mkdir(parents=True)
        os.utime(first.parent / name, (time.time() - days * day,) * 2)
    os.utime(first, (time.time() - 15 * day,) * 2)
    assert place.run(FOLDER) == str(first), "which is a use"
    assert len(list(first.parent.iterdir())) == 4
    (place.root / "pipelines" / "new.py").touch()
    second = Path(place.run(FOLDER))
    assert {path.name for path in first.parent.iterdir()} == {
        first.name,
        second.name,
        "numba-young",
        "photographs",
    }


def test_processes_that_start_at_once_share_a_folder(place: Place) -> None:
    command = [sys.executable, "-c", FOLDER]
    processes = [
        subprocess.Popen(
            command, env=place.environment(), cwd=place.temporary, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    folders = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    assert folders == {place.run(FOLDER)} and str(place.home) in folders.pop()
