"""A plugin of pytest that writes outcomes as rows of a benchmark, after each test: `-p benchmarks.tested --rows FILE`.

pytest's own files are written when all tests have ended, and a stage that is out of time ends before.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from benchmarks.machine import commit, machine, versions
from benchmarks.measurement import Row, row_of
from benchmarks.progress import Progress, unfinished
from benchmarks.results import write_json

NAME = "gpu-tests"
OUTCOMES = ("passed", "failed", "skipped")


class TestRows:
    """Counts tests by their outcome, and names those that failed."""

    __test__ = False

    def __init__(self, path: Path) -> None:
        write = partial(write_json, path, machine=machine(), versions=versions(), commit=commit())
        self.write = write
        self.progress = Progress(lambda rows: write([*rows, unfinished("tests")]))
        self.outcomes: dict[str, str] = {}
        """By the name of the test."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test once it is over, or its set-up has failed or skipped it."""
        failed_already = self.outcomes.get(report.nodeid) == "failed"
        if not failed_already and (report.when == "call" or report.outcome != "passed"):
            self.outcomes[report.nodeid] = report.outcome
        if report.when == "teardown":
            self.progress.show(self.rows())

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported has failed, with all its tests."""
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
            self.progress.show(self.rows())

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """All of them have ended, unless somebody stopped pytest."""
        if exitstatus != pytest.ExitCode.INTERRUPTED:
            self.write(self.rows())

    def rows(self) -> list[Row]:
        """How many there are of each outcome, and a row for each that failed."""
        counts = Counter(self.outcomes.values())
        rows = [row_of([counts[each]], name=NAME, metric=each, unit="tests") for each in OUTCOMES]
        failed = [name for name, outcome in self.outcomes.items() if outcome == "failed"]
        return rows + [row_of([1], name=name, metric="failed", unit="tests") for name in failed]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --rows."""
    parser.addoption("--rows", type=Path, metavar="FILE", help="write the outcomes as rows of a benchmark")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    if path := config.getoption("--rows"):
        config.pluginmanager.register(TestRows(path))
