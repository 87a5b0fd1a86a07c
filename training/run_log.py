"""What a run says while it goes: a progress bar, JSON lines, TensorBoard. Ranks other than 0 say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

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
        # purge_step hides what an earlier, killed process logged beyond the checkpoint that is continued
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self.bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def progress(self, steps: int, images_per_second: float, loss: float) -> None:
        """Move the progress bar by `steps`."""
        self.bar.set_postfix_str(f"{images_per_second:,.0f} images/s, loss {loss:.3f}", refresh=False)
        self.bar.update(steps)

    def write(self, entry: Entry) -> None:
        """One line of metrics.jsonl, and each of its numbers to TensorBoard under kind/…/name."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        prefix = "/".join(str(entry[key]) for key in ("kind", "split", "head") if key in entry)
        for name, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                self.board.add_scalar(f"{prefix}/{name}", value, entry["step"])

    def say(self, text: str) -> None:
        """A line for the user, above the progress bar."""
        self.bar.write(text)

    def close(self) -> None:
        """Flush and close the files."""
        self.bar.close()
        self.board.close()


def drop_entries_after(metrics: Path, step: int) -> None:
    """Cut metrics.jsonl back to what was logged up to `step`, where a continued run starts.

    A last line that a killed process left half-written goes too.
    """
    if not metrics.exists():
        return
    kept = [
        line for line in metrics.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]
    kept = [line for line in kept if json.loads(line)["step"] <= step]
    partial = metrics.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(metrics)


def read_entries(metrics: Path) -> list[Entry]:
    """The lines of a metrics.jsonl."""
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
