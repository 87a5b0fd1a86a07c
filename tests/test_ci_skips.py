"""The hook of conftest.py that lets no test be skipped unseen in continuous integration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest

@pytest.fixture
def absent():
    pytest.skip("the lists are not here")

def test_by_fixture(absent): ...
def test_in_the_body(): pytest.skip("no such library")
def test_refused(): pytest.skip("this machine refuses to open another file")
@pytest.mark.xfail(strict=True)
def test_known_to_fail(): raise ValueError
def test_that_passes(): ...
"""


def run_pytest(folder: Path, *, ci: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, folder]
    environment = os.environ | {"CI": ci}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("ci", "status", "summary"),
    [
        ("true", 1, "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error"),
        ("", 0, "1 passed, 3 skipped, 1 xfailed"),
    ],
)
def test_a_skip_fails_in_ci_only(tmp_path: Path, ci: str, status: int, summary: str) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    result = run_pytest(tmp_path, ci=ci)
    assert (result.returncode, summary in result.stdout) == (status, True), result.stdout
    assert ("CI=true allows no skipped test" in result.stdout) == (ci == "true")


def test_a_skipped_module_fails_in_ci(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_library')\n")
    result = run_pytest(tmp_path, ci="true")
    assert result.returncode != 0
    assert "CI=true allows no skipped test" in result.stdout
