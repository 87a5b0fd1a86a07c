"""What a GPU machine is said to need is what the project imports, and is enough to collect every GPU test."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from benchmarks.gpu_machine import MODULES, main, missing

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("pipelines", "training", "tools", "benchmarks", "tests")
ITS_OWN = ("torch", "numpy")
"""What benchmarks/gpu_machine.py itself imports."""

COLLECT = """
import sys
from importlib.machinery import PathFinder
import pytest

hidden = set(sys.argv[1].split(","))

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
assert not hidden & set(sys.modules), hidden & set(sys.modules)
sys.exit(pytest.main(["-q", "-m", "gpu", "--collect-only", "-p", "no:cacheprovider", sys.argv[2]]))
"""


def collect(path: str, hidden: set[str]) -> subprocess.CompletedProcess[str]:
    """Collect the GPU tests of a file or folder in a process that cannot find the modules named."""
    command = [sys.executable, "-c", COLLECT, ",".join(sorted(hidden)), path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def undeclared() -> set[str]:
    """Top-level modules that are installed here, and that neither a declared package holds nor one that it requires."""
    # in a process of its own, for setuptools, once imported, puts the packages that it brings along on the path
    ask = "import importlib.metadata, json; print(json.dumps(importlib.metadata.packages_distributions()))"
    owners = json.loads(subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True).stdout)
    names = [*ITS_OWN, *(name.partition(".")[0] for name in MODULES)]
    todo = [owner for name in names for owner in owners.get(name, [])]
    declared = set()
    while todo:
        package = _normal(todo.pop())
        if package in declared:
            continue
        declared.add(package)
        try:
            requirements = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # required on another Python only, or by an extra
        for line in requirements:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return {
        module
        for module, packages in owners.items()
        if not module.startswith("_") and not {_normal(each) for each in packages} & declared
    } - set(FOLDERS)


def _normal(package: str) -> str:
    return package.lower().replace("_", "-")


def imported() -> set[str]:
    """Every foreign module that a file of the project imports anywhere, as `MODULES` would name it."""
    found = set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    names = {name if name.startswith("nvidia") else name.partition(".")[0] for name in found}
    return {".".join(name.split(".")[:2]) for name in names} - set(sys.stdlib_module_names) - set(FOLDERS)


def test_every_import_is_declared() -> None:
    used_by_this_file = {"packaging"}  # which pytest requires
    used_by_a_library = {"docstring_parser"}
    assert imported() - set(ITS_OWN) - used_by_this_file == set(MODULES) - used_by_a_library


def test_the_gpu_tests_are_collected_with_what_is_declared_and_not_without() -> None:
    hidden = undeclared()
    assert {"mypy", "typeshed_client"} & hidden and not {"docstring_parser", "torch"} & hidden
    everything = collect("tests", hidden)
    assert everything.returncode == pytest.ExitCode.OK, everything.stdout[-3000:]
    without = collect("tests/training/test_fast_kernels.py", {*hidden, "docstring_parser"})
    assert without.returncode != pytest.ExitCode.OK
    assert "No module named 'docstring_parser'" in without.stdout + without.stderr


def test_a_lack_stops_the_tests_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(MODULES, "no_such_module", ("nothing", "nowhere"))
    line = "no Python module no_such_module, for nothing; it comes from nowhere"
    assert line in missing() and line in missing(for_tests=True)
    assert main(["decode", "mix"]) == 0
    assert f"MISSING: {line}" in capsys.readouterr().out
    assert main(["decode", "tests"]) == 1


def test_a_row_that_is_left_out_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_machine._is_there", lambda module: module != "timm")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ["timm" in line for line in missing()].count(True) == 1
    assert missing(for_tests=True) == []
