"""The commands that setup.py installs: each is there and names itself."""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import setuptools

SETUP = Path(__file__).resolve().parents[2] / "setup.py"
NAMES = [f"fasttail-{name}" for name in ("bench", "convert", "doctor", "evaluate", "grid", "train")]


def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], int]]:
    """What setup.py hands to setuptools, imported."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(SETUP))
    commands = {}
    for line in given["entry_points"]["console_scripts"]:
        name, where = line.split("=")
        module, function = where.split(":")
        commands[name] = getattr(importlib.import_module(module), function)
    return commands


def test_all_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(installed(monkeypatch)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_command_names_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = installed(monkeypatch)[name]
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {name} ")
