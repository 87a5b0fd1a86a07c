"""A user's mistake is one clear sentence and a non-zero exit, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Input that only the user can mend: the message names the file, row or setting, and the remedy."""


def run_command(name: str, main: Callable[[], int]) -> int:
    """Run a command's `main` and return its exit status: 2 after a `UserError`, 130 after Ctrl-C.

    141, and no word, where nobody reads its output any more, as after `| head`.
    """
    try:
        return main()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes it once more in the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
