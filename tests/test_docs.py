"""The documentation names files and settings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.command_line import build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_source_file_exists(page: Path) -> None:
    named = re.findall(r"(?:pipelines|training|tools|configs)/[\w./]+\w", page.read_text(encoding="utf-8"))
    for name in named:
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_setting_exists(page: Path) -> None:
    known = build_parser("x", "x").format_help()
    text = page.read_text(encoding="utf-8")
    for name in re.findall(
        r"`(?:--)?((?:data|dali|view|sampler|mix|glmc|model|optim|run|checkpoint)\.\w+)`", text
    ):
        assert f"--{name} " in known, f"{page.name} names the setting {name}"


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_says_source_command_and_figures(config: Path) -> None:
    head = config.read_text(encoding="utf-8").split("method:")[0]
    for word in ("Source:", "easured here:", f"python -m training.train --config configs/{config.name}"):
        assert word in head
    assert "ublished" in head
