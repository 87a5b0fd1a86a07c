"""The files of a run, and whether a start in its folder begins, continues or has nothing left to do."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from pipelines.beton.reader import BetonFile
from pipelines.user_error import UserError
from pipelines.whole_file import hidden_path
from training.checkpoint import Checkpoint, TornCheckpointError, config_differences, load_checkpoint
from training.config import Config

MAY_CHANGE = (
    "run.folder",
    "run.log_steps",
    "data.threads",
    "data.prefetch",
    "data.stage",
    "data.stage_folder",
    "dali.threads",
    "run.max_bad_steps",
    "checkpoint.minutes",
    "checkpoint.keep",
)
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
    def bad_steps(self) -> Path:
        """The images of the steps that ended a run because their loss was not finite."""
        return self.path / "bad_steps.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint, another name of the newest of `of_steps`."""
        return self.checkpoints / "last.pt"

    def of_step(self, step: int) -> Path:
        """Checkpoint after `step` steps."""
        return self.checkpoints / f"step_{step:08d}.pt"

    def of_steps(self) -> dict[int, Path]:
        """The checkpoints that are kept, by their number of steps, the newest first."""
        named = {path.stem.removeprefix("step_"): path for path in self.checkpoints.glob("step_*.pt")}
        by_step = {int(number): path for number, path in named.items() if number.isdecimal()}
        return dict(sorted(by_step.items(), reverse=True))

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.checkpoints / "best.pt"

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
            with TemporaryFile(dir=self.path):  # no name of its own that a second start could take away
                pass
        except OSError as error:
            raise UserError(
                f"run.folder {self.path} cannot be written ({error.strerror}); choose another"
            ) from None

    def clear(self) -> None:
        """Remove what an earlier run left here."""
        outputs = [self.outputs(split) for split in ("val", "test")]
        for file in (self.config, self.metrics, self.summary, self.bad_steps, *outputs):
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.report, hidden_path(self.report), self.path / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)

    def checkpoint_to_continue(
        self, config: Config, betons: dict[str, BetonFile], device: torch.device
    ) -> Checkpoint | None:
        """The newest whole checkpoint here, None where there is none; refuses one of other settings or other data.

        Torn and foreign files are passed over with a `UserWarning`; if nothing else is there, that is an error.
        """
        checkpoint = self._newest(device)
        if checkpoint is None:
            return None
        differences = changed_settings(config, checkpoint.config)
        if differences:
            raise UserError(
                f"{self.path} holds a run with other settings: {'; '.join(differences)}. "
                "Use another --run.folder, or --restart to begin anew here"
            )
        for split, beton in betons.items():
            if checkpoint.data.get(split, beton.digest) != beton.digest:
                raise UserError(
                    f"{self.path} holds a run whose data.{split} was another file than {beton.path} is now. "
                    "Bring that file back, or use --restart to begin anew here"
                )
        return checkpoint

    def _newest(self, device: torch.device) -> Checkpoint | None:
        unreadable: list[TornCheckpointError] = []
        passed_over: list[Path] = []
        for path in (self.last, *self.of_steps().values()):
            if not path.exists() or any(path.samefile(other) for other in passed_over):
                continue
            try:
                checkpoint = load_checkpoint(path, device)
            except TornCheckpointError as error:
                unreadable.append(error)
                passed_over.append(path)
                continue
            for why in unreadable:
                warnings.warn(f"{why}. {path}, before it, is taken instead", UserWarning, stacklevel=2)
            return checkpoint
        if unreadable:
            raise UserError(f"{unreadable[0]}; no other checkpoint is here, so --restart begins anew")
        return None

    def checkpoint_of_step(self, step: int, device: torch.device) -> Checkpoint:
        """The checkpoint that the first process has chosen to go on from, read by another one."""
        path = self.of_step(step) if self.of_step(step).exists() else self.last
        if path.exists():
            checkpoint = load_checkpoint(path, device)
            if checkpoint.step == step:
                return checkpoint
        raise UserError(
            f"{path} is not the checkpoint of step {step} that the first process goes on from: "
            "run.folder must be one folder that all machines share"
        )
