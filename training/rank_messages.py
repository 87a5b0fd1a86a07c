"""What a process says on standard error names its rank, where there are several.

Only rank 0 logs. But a bad image or a warning can come from any rank, and the terminal of a job shows all of them:
without a name nobody knows on which node to look.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.user_error import run_command
from training.process_group import end_rank


def run_rank_command(name: str, main: Callable[[], int]) -> int:
    """As `run_command`; one of torchrun's several ranks names itself in errors and warnings, and ends here.

    (Tracebacks have `[rank5]:` before each line by PyTorch itself.)
    """
    who = rank_name()
    if who is None:
        return run_command(name, main)
    with _warnings_name(who):
        try:
            status = run_command(f"{name}, {who}", main)
        except SystemExit as silent:  # another rank has said why
            status = int(silent.code or 0)
    end_rank(status)


def rank_name() -> str | None:
    """This process among those that torchrun started, on all nodes; None where it is alone."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    return None if ranks == 1 else f"rank {os.environ['RANK']} of {ranks} on {socket.gethostname()}"


@contextmanager
def _warnings_name(who: str) -> Iterator[None]:
    plain = warnings.formatwarning

    def named(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return f"{who}: {plain(message, category, filename, lineno, line)}"

    warnings.formatwarning = named
    try:
        yield
    finally:
        warnings.formatwarning = plain
