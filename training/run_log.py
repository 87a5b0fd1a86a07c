"""What a run says while it goes: a progress bar, JSON lines, TensorBoard. Ranks other than 0 say nothing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.disk_errors import disk_errors, written_whole

Entry = dict[str, Any]


class RunLog(Protocol):
    """Where the loop sends what it knows."""

    def progress(self, steps: int, images_per_second: float, loss: float) -> None:
        """Move the progress bar by `steps`."""

    def write(self, entry: Entry) -> None:
        """One line of metrics.jsonl, and each of its numbers to TensorBoard."""

    def say(self, text: str) -> None:
        """A line for the user, above the progress bar."""

    def close(self) -> None:
        """Flush and close the files."""


class SilentLog:
    """The log of every rank but 0."""

    def progress(self, steps: int, images_per_second: float, loss: float) -> None:
        """Nothing."""

    def write(self, entry: Entry) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class FolderLog:
    """Progress on the terminal; metrics.jsonl and TensorBoard's event files in the run folder."""

    def __init__(self, folder: Path, *, first_step: int, total_steps: int) -> None:
        self.metrics = folder / "metrics.jsonl"
        drop_entries_after(self.metrics, first_step)
        with disk_errors(board := folder / "tensorboard", "TensorBoard's events"):
            # purge_step hides what an earlier, killed process logged beyond the checkpoint that is continued
            self.board = SummaryWriter(str(board), purge_step=first_step + 1)
        self.bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def progress(self, steps: int, images_per_second: float, loss: float) -> None:
        """Move the progress bar by `steps`."""
        self.bar.set_postfix_str(f"{images_per_second:,.0f} images/s, loss {loss:.3f}", refresh=False)
        self.bar.update(steps)

    def write(self, entry: Entry) -> None:
        """One line of metrics.jsonl, and each of its numbers to TensorBoard under kind/…/name."""
        with disk_errors(self.metrics, "the log"), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        prefix = "/".join(str(entry[key]) for key in ("kind", "split", "head") if key in entry)
        with disk_errors(Path(self.board.log_dir), "TensorBoard's events"):
            for name, value in entry.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                    self.board.add_scalar(f"{prefix}/{name}", value, entry["step"])

    def say(self, text: str) -> None:
        """A line for the user, above the progress bar."""
        self.bar.write(text)

    def close(self) -> None:
        """Flush and close the files."""
        self.bar.close()
        with disk_errors(Path(self.board.log_dir), "TensorBoard's events"):
            self.board.close()


def drop_entries_after(metrics: Path, step: int) -> None:
    """Cut metrics.jsonl back to what was logged up to `step`, where a continued run starts.

    A last line that a killed process left half-written goes too, and with a `UserWarning` any other that cannot be
    read: after a power cut a file may hold zeros where its newest part was.
    """
    if not metrics.exists():
        return
    with disk_errors(metrics, "the log"):
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        steps = [_step(line) for line in lines if line.endswith("\n")]
        kept = [line for line, at in zip(lines, steps, strict=False) if at is not None and at <= step]
        if None in steps:
            unreadable = steps.index(None) + 1
            warnings.warn(f"{metrics}: line {unreadable} cannot be read and is left out", stacklevel=2)
    with written_whole(metrics, "the log") as file:
        file.write("".join(kept).encode())


def _step(line: str) -> int | None:
    """The step of a line; None where it is no entry."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None


def read_entries(metrics: Path) -> list[Entry]:
    """The lines of a metrics.jsonl."""
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
