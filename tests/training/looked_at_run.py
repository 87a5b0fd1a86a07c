"""The trainer, which waits after each epoch to be looked at: a script that tests call.

    python -m tests.training.looked_at_run FOLDER [OPTIONS OF training.train]

When epoch e is trained, evaluated and on the disk, it makes FOLDER/e, and goes on when that file is gone.
"""

from __future__ import annotations

import sys
import time
from itertools import count
from pathlib import Path

from training.checkpoint import Checkpoint
from training.checkpoint_writer import CheckpointWriter
from training.train import main


def wait_after_each_save(folder: Path) -> None:
    """An epoch ends with a save; there are no others unless the run takes many minutes."""
    save, epochs = CheckpointWriter.save, count()

    def looked_at(self: CheckpointWriter, checkpoint: Checkpoint, *, is_best: bool) -> None:
        save(self, checkpoint, is_best=is_best)
        self.wait()
        here = folder / str(next(epochs))
        here.touch()
        while here.exists():
            time.sleep(0.005)

    CheckpointWriter.save = looked_at  # type: ignore[method-assign]


if __name__ == "__main__":
    wait_after_each_save(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
