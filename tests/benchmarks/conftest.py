"""Photographs of the benchmark's own recipe, few of them, for all of its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.photographs import Photographs, made_photographs


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def few(cache: Path) -> Photographs:
    """24 photographs."""
    return made_photographs(24, cache=cache)
