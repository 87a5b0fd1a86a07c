"""The facts beside the figures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.machine import commit, machine, use_cores, versions
from pipelines.user_error import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_a_process_is_kept_to_the_cores_it_asks_for() -> None:
    code = (
        "import os; from benchmarks.machine import machine, use_cores; "
        "print(use_cores(1), len(os.sched_getaffinity(0)), machine()['cores'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "1"]


def test_more_cores_than_there_are_are_refused() -> None:
    most = len(os.sched_getaffinity(0))
    with pytest.raises(UserError, match=f"this process may use {most}"):
        use_cores(most + 1)


def test_the_machine_and_the_versions_are_named() -> None:
    facts = machine()
    assert facts["cpu"] and facts["memory_gib"] > 0 and facts["load_average"] >= 0
    assert {"python", "torch", "numpy", "pillow"} <= versions().keys()


def test_the_commit_is_git_s_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTTAIL_COMMIT", raising=False)
    git = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    assert commit().startswith(git.stdout.strip() or "unknown")
    monkeypatch.setenv("FASTTAIL_COMMIT", "abc")
    assert commit() == "abc"
