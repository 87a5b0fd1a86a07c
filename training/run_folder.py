"""The files of a run, and whether a start in its folder begins, continues or has nothing left to do."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.user_error import UserError
from training.checkpoint import Checkpoint, config_differences, load_checkpoint
from training.config import Config

MAY_CHANGE = ("run.folder", "run.log_steps", "data.threads", "data.prefetch", "dali.threads")
"""Settings that do not change what a run computes, so a continued run may have others."""


def changed_settings(config: Config, saved: dict[str, Any]) -> list[str]:
    """Settings that make `config` another run than that of a saved configuration, with both values."""
    differences = config_differences(config.to_dict(), saved)
    harmless = tuple(f"{name} " for name in MAY_CHANGE)
    return [difference for difference in differences if not difference.startswith(harmless)]


@dataclass(frozen=True)
class RunFolder:
    """Names of everything inside `--run.folder`."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved configuration, which `--config` reads back."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Every logged value, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """The result of a finished run."""
        return self.path / "summary.json"

    @property
    def last(self) -> Path:
        """Checkpoint of the last finished epoch."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.path / "checkpoints" / "best.pt"

    def outputs(self, split: str) -> Path:
        """Logits, features and labels of an evaluation set, where `--save-outputs` asked for them."""
        return self.path / f"outputs_{split}.safetensors"

    @property
    def report(self) -> Path:
        """Folder of the pictures."""
        return self.path / "report"

    def create(self) -> None:
        """Make the folder, or say why it cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"run.folder {self.path} cannot be written ({error.strerror}); choose another"
            ) from None

    def clear(self) -> None:
        """Remove what an earlier run left here."""
        outputs = [self.outputs(split) for split in ("val", "test")]
        for file in (self.config, self.metrics, self.summary, *outputs):
            file.unlink(missing_ok=True)
        for folder in (self.last.parent, self.report, self.path / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)

    def checkpoint_to_continue(self, config: Config, device: torch.device) -> Checkpoint | None:
        """The last checkpoint here, None where there is none; refuses one made with other settings."""
        if not self.last.exists():
            return None
        checkpoint = load_checkpoint(self.last, device)
        differences = changed_settings(config, checkpoint.config)
        if differences:
            raise UserError(
                f"{self.path} holds a run with other settings: {'; '.join(differences)}. "
                "Use another --run.folder, or --restart to begin anew here"
            )
        return checkpoint
