"""The rules of the code base that no linter knows, checked on the syntax trees of all modules.

Imports point one way (`tools` -> `benchmarks` -> `training` -> `pipelines`), names say what a module holds,
functions stay short, and all chance comes from seeded generators.
"""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipelines", "training", "benchmarks", "tools")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FORBIDDEN_IMPORTS = {
    "pipelines": {"training", "benchmarks", "tools"},
    "training": {"benchmarks", "tools"},
    "benchmarks": {"tools"},
    "tools": set(),
}
LONGEST_FUNCTION = 80
# What numpy.random and random hold that makes a generator of its own instead of drawing from the global one.
OWN_GENERATORS = {
    "numpy.random": {
        "BitGenerator",
        "Generator",
        "PCG64",
        "Philox",
        "RandomState",  # the published CIFAR-LT subsets were drawn from its stream
        "SeedSequence",
        "default_rng",
    },
    "random": {"Random", "SystemRandom"},
}
# The published subsets came from the global generator, which this test draws from to compare, and then restores.
COMPARES_WITH_THE_GLOBAL_GENERATOR = ROOT / "tests/pipelines/sources/test_cifar_long_tail.py"


def imported_names(tree: ast.AST, package: str = "") -> Iterator[tuple[str, str]]:
    """Every name that the imports in `tree`, at any depth, bind: (bound name, dotted path it stands for)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0], alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package if node.level else "", node.module]))
            for alias in node.names:
                yield alias.asname or alias.name, f"{module}.{alias.name}"


def imported_packages(tree: ast.AST, package: str) -> set[str]:
    return {path.split(".")[0] for _, path in imported_names(tree, package)}


def long_functions(tree: ast.AST, limit: int) -> list[str]:
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [f"{f.name} (line {f.lineno})" for f in functions if f.end_lineno - f.lineno + 1 > limit]


def global_draws(tree: ast.AST) -> list[str]:
    """The dotted paths under numpy.random and random that `tree` uses and that draw from their global generators."""
    # `import numpy.random` binds numpy, whatever submodule it names.
    paths = {name: path if path.split(".")[0] != name else name for name, path in imported_names(tree)}
    used = {path for _, path in imported_names(tree)}
    for node in ast.walk(tree):
        attributes, value = [], node
        while isinstance(value, ast.Attribute):
            attributes.insert(0, value.attr)
            value = value.value
        if isinstance(value, ast.Name) and value.id in paths:
            used.add(".".join([paths[value.id], *attributes]))
    return sorted(
        path
        for path in used
        for module, allowed in OWN_GENERATORS.items()
        if path.startswith(f"{module}.") and path.removeprefix(f"{module}.").split(".")[0] not in allowed
    )


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_keeps_the_rules(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tree = parse(path)
    assert not imported_packages(tree, package) & FORBIDDEN_IMPORTS[package]
    assert path.stem not in {"utils", "common", "helpers"}
    assert not long_functions(tree, LONGEST_FUNCTION)


@pytest.mark.parametrize("path", MODULES + TESTS, ids=name_of)
def test_draws_come_from_seeded_generators(path: Path) -> None:
    draws = global_draws(parse(path))
    if path == COMPARES_WITH_THE_GLOBAL_GENERATOR:
        assert "numpy.random.set_state" in draws, "it restores the generator"
    else:
        assert not draws


def test_all_packages_are_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


def test_all_packages_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """setup.py names them one by one."""
    named: list[str] = []
    monkeypatch.setattr("setuptools.setup", lambda *, packages, **_: named.extend(packages))
    runpy.run_path(str(ROOT / "setup.py"))
    assert sorted(named) == sorted(
        {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in MODULES}
    )


@pytest.mark.parametrize(
    ("source", "packages"),
    [
        ("import training.loop", {"training"}),
        ("from tools import preview as p", {"tools"}),
        ("def f():\n    from training.loop import run", {"training"}),
        ("from . import batch", {"pipelines"}),
        ("import trainingwheels", {"trainingwheels"}),
    ],
)
def test_imports_are_found(source: str, packages: set[str]) -> None:
    assert imported_packages(ast.parse(source), "pipelines") == packages


@pytest.mark.parametrize(
    ("source", "draws"),
    [
        ("import numpy as np\nnp.random.rand(3)", ["numpy.random.rand"]),
        ("import numpy.random\nnumpy.random.seed(0)", ["numpy.random.seed"]),
        ("from numpy import random as r\nr.shuffle(x)", ["numpy.random.shuffle"]),
        ("from numpy.random import permutation", ["numpy.random.permutation"]),
        ("import random\nrandom.shuffle(x)", ["random.shuffle"]),
        ("from random import choice", ["random.choice"]),
        ("import numpy as np\nrng = np.random.default_rng(0)\nrng.random(3)", []),
        ("import random\nrandom.Random(0).shuffle(x)", []),
        ("def f(random):\n    return random.random()", []),
    ],
)
def test_draws_from_global_generators_are_found(source: str, draws: list[str]) -> None:
    assert global_draws(ast.parse(source)) == draws


def test_long_functions_are_found() -> None:
    source = "def short():\n    x = 1\n\n\nasync def long():\n    x = 1\n    return x"
    assert long_functions(ast.parse(source), 2) == ["long (line 5)"]
