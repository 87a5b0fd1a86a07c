"""How long a run has taken, and how much of it was training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds of training steps and of everything, of this process and of the processes before it."""

    seconds_before: float
    started: float = field(default_factory=time.monotonic)
    aside: float = 0.0
    """Seconds since the start that were not training: evaluation and checkpoints."""

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """Leave what happens inside out of the training rate."""
        since = time.monotonic()
        yield
        self.aside += time.monotonic() - since

    @property
    def training_seconds(self) -> float:
        """Of this process."""
        return time.monotonic() - self.started - self.aside

    @property
    def total_seconds(self) -> float:
        """Of all processes of the run, evaluation included."""
        return self.seconds_before + time.monotonic() - self.started
