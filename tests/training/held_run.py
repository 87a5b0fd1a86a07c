"""The trainer, held after a step until a signal comes: a script that tests call where a signal must find it at work.

    python -m tests.training.held_run STEP [OPTIONS OF training.train]

Without it a test would race with the run: on a busy machine the run may be over before the test has looked again. Under
torchrun only the first start is held. Before a step is judged the checkpoint in progress is on the disk, so a run that
saves after every step has saved the one before the hold.
"""

from __future__ import annotations

import os
import sys
import time

from training.checkpoint_writer import CheckpointWriter
from training.stop_signals import StopSignals
from training.train import main


def hold(step: int) -> None:
    """Let this process go no further than `step` steps before a signal that asks it to stop, or ends it."""
    asked, is_due = StopSignals.asked, CheckpointWriter.is_due

    def held(self: StopSignals, done: int, *, save: bool) -> int:
        while done >= step and not self._noted:
            time.sleep(0.005)
        return asked(self, done, save=save)

    def written(self: CheckpointWriter) -> bool:
        self.wait()
        return is_due(self)

    StopSignals.asked, CheckpointWriter.is_due = held, written  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        hold(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
