"""A plugin of pytest that writes outcomes as rows of a benchmark, after each test: `-p benchmarks.tested --rows FILE`.

pytest's own files are written when all tests have ended, and so it says what failed; a stage that is out of time, or
whose process dies, ends before. So each failure is printed at once, too.
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

    def __init__(self, path: Path, terminal: pytest.TerminalReporter) -> None:
        write = partial(write_json, path, machine=machine(), versions=versions(), commit=commit())
        self.write = write
        self.progress = Progress(lambda rows: write([*rows, unfinished("tests")]))
        self.outcomes: dict[str, str] = {}
        """By the name of the test."""
        self.selected = 0
        """Tests that there are to run."""
        self._terminal = terminal

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count what is to come."""
        self.selected = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test once it is over, or its set-up has failed or skipped it."""
        failed_already = self.outcomes.get(report.nodeid) == "failed"
        if not failed_already and (report.when == "call" or report.outcome != "passed"):
            self.outcomes[report.nodeid] = report.outcome
        if report.failed:
            self._terminal.write_line(f"\n{report.longreprtext}", flush=True)
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
        """How many there are, of each outcome and to run, and a row for each that failed."""
        counts = Counter(self.outcomes.values())
        rows = [row_of([counts[each]], name=NAME, metric=each, unit="tests") for each in OUTCOMES]
        rows.append(row_of([self.selected], name=NAME, metric="selected", unit="tests"))
        failed = [name for name, outcome in self.outcomes.items() if outcome == "failed"]
        return rows + [row_of([1], name=name, metric="failed", unit="tests") for name in failed]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --rows."""
    parser.addoption("--rows", type=Path, metavar="FILE", help="write the outcomes as rows of a benchmark")


@pytest.hookimpl(trylast=True)  # the terminal is there by then
def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    if path := config.getoption("--rows"):
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        assert isinstance(terminal, pytest.TerminalReporter)
        config.pluginmanager.register(TestRows(path, terminal))
