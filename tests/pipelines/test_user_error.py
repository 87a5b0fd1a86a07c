"""What a command says and returns when it does not come to its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.user_error import UserError, run_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(UserError("why"), 2, "me: why\n"), (KeyboardInterrupt(), 130, "me: interrupted\n")],
)
def test_errors(error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise error

    assert run_command("me", fail) == status
    assert capsys.readouterr() == ("", said)
    assert run_command("me", lambda: 7) == 7


def test_nobody_reads_on() -> None:
    lines = "def main():\n  for i in range(100000): print('a line', i)\n  return 0"
    script = f"import sys\nfrom pipelines.user_error import run_command\n{lines}\nsys.exit(run_command('me', main))"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "a line 0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
