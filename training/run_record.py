"""What a finished run left in its folder, read back: the one source of reports and comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipelines.user_error import UserError
from training.accuracy import GROUPS, MAIN_RULE, shot_groups
from training.run_folder import RunFolder
from training.run_log import Entry, read_entries

COLUMNS = ("all", *GROUPS)
"""The accuracies of every table."""


@dataclass(frozen=True)
class RunRecord:
    """A finished run. Epochs count from 0, accuracies are fractions, as in its files."""

    folder: RunFolder
    config: dict[str, Any]
    summary: dict[str, Any]
    entries: list[Entry]

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return self.folder.path.resolve().name

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """(C,) training images of each class."""
        return np.asarray(self.summary["class_counts"], np.int64)

    @property
    def class_groups(self) -> NDArray[np.int8]:
        """(C,) MANY, MEDIUM or FEW by the rule that the trainer's accuracies follow."""
        return shot_groups(self.class_counts, MAIN_RULE)

    @property
    def class_accuracy(self) -> NDArray[np.float64] | None:
        """(C,) last epoch on data.test, NaN for a class without test images; None without data.test."""
        accuracy = self.summary["accuracy"]
        return None if accuracy is None else np.asarray(accuracy["per_class"], np.float64)

    @property
    def eval_split(self) -> str | None:
        """The split whose accuracy is drawn: data.test, without it data.val, None without either."""
        splits = {entry["split"] for entry in self.evaluations()}
        return next((split for split in ("test", "val") if split in splits), None)

    @property
    def trained_heads(self) -> list[str]:
        """The heads whose weights mean something: those that were evaluated, and the inference head."""
        heads = {entry["head"] for entry in self.evaluations()} | {self.summary["inference_head"]}
        return sorted(heads)

    def evaluations(self, split: str | None = None, head: str | None = None) -> list[Entry]:
        """The logged evaluations, in order; of one split and one head where they are given."""
        wanted = {"kind": "eval", "split": split, "head": head}
        return [
            entry
            for entry in self.entries
            if all(value is None or entry.get(key) == value for key, value in wanted.items())
        ]

    def training(self) -> list[Entry]:
        """The logged training entries, in order."""
        return [entry for entry in self.entries if entry["kind"] == "train"]

    def epoch_means(self, name: str) -> tuple[list[int], list[float]]:
        """Epochs, and the mean over each epoch's steps of a training value; both empty if it was not logged.

        An entry holds the mean since the entry before it, so it counts once for each of these steps.
        """
        sums: dict[int, float] = {}
        steps: dict[int, int] = {}
        before = 0
        for entry in self.training():
            since, before = entry["step"] - before, entry["step"]
            if name in entry:
                epoch = entry["epoch"]
                sums[epoch] = sums.get(epoch, 0.0) + since * entry[name]
                steps[epoch] = steps.get(epoch, 0) + since
        return list(sums), [sums[epoch] / steps[epoch] for epoch in sums]


def column(entries: Sequence[Entry], name: str) -> tuple[list[int], list[float]]:
    """Epochs and values of `name` in `entries`, without those where it is null."""
    present = [entry for entry in entries if entry[name] is not None]
    return [entry["epoch"] for entry in present], [entry[name] for entry in present]


def read_run(path: Path) -> RunRecord:
    """Read the folder of a finished run.

    Raises `UserError` where there is no folder, the run is not finished, or a file cannot be read.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder; train it, or correct the path")
    if not folder.summary.exists():
        raise UserError(f"{path}: not a finished run (it has no {folder.summary.name}); train it to the end")
    return RunRecord(
        folder=folder,
        config=_read(folder.config, lambda file: yaml.safe_load(file.read_text(encoding="utf-8"))),
        summary=_read(folder.summary, lambda file: json.loads(file.read_text(encoding="utf-8"))),
        entries=_read(folder.metrics, read_entries),
    )


def _read(file: Path, reader: Any) -> Any:
    try:
        return reader(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{file}: cannot be read ({reason}); train the run again with --restart") from None
