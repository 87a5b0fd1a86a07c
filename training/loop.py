"""The training loop as a paragraph: step, log, evaluate, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.eval_loader import EvalLoader
from pipelines.resident_loader import ResidentLoader
from pipelines.train_loader import TrainLoader
from pipelines.user_error import UserError
from training.checkpoint import Checkpoint, save_checkpoint
from training.config import Config
from training.evaluation import evaluate, head_figures
from training.model import LongTailModel
from training.optimizer import set_learning_rate
from training.process_group import ProcessGroup
from training.run_folder import RunFolder
from training.run_log import RunLog
from training.schedule import alpha, learning_rate
from training.step import MeanMetrics, StepInput, TrainStep

LOGGED_FIGURES = (
    *("all", "many", "medium", "few", "top5", "worst", "geometric_mean", "harmonic_mean"),
    "calibration_error",
)
"""Of each evaluation; all of the last and the best epoch's are in summary.json."""


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


@dataclass
class Trainer:
    """A run that is ready to go: built by training/train.py, moved on by `train`."""

    config: Config
    group: ProcessGroup
    folder: RunFolder
    model: LongTailModel
    step: TrainStep
    loader: TrainLoader | ResidentLoader
    eval_loaders: dict[str, EvalLoader]
    """By split: "test", and "val" where the configuration names one."""
    class_counts: NDArray[np.int64]
    """(C,) training images of each class."""
    log: RunLog
    clock: Clock
    versions: dict[str, str]
    first_step: int = 0
    """Steps done before this process."""
    last: dict[str, Any] | None = None
    """The latest evaluation on data.test, by the inference head: see `head_figures`."""
    best: dict[str, Any] | None = None
    """The same of the best epoch so far, with `epoch`, the `split` that chose it and its accuracy there."""

    @property
    def is_finished(self) -> bool:
        """Whether the last checkpoint was that of the last step."""
        return self.first_step >= self.loader.total_steps

    def train(self) -> None:
        """From `first_step` to the end of the last epoch."""
        try:
            self._train()
        except KeyboardInterrupt:
            if self.folder.last.exists():
                self.log.say(
                    f"{self.folder.last} holds the last finished epoch; the same command goes on from there"
                )
            raise
        finally:
            self.log.close()

    def _train(self) -> None:
        metrics, logged = MeanMetrics(), self.first_step
        alpha_now = torch.zeros((), device=self.group.device)
        batches: Iterable[StepInput] = self.loader.batches(self.first_step)
        for done, batch in enumerate(batches, self.first_step + 1):
            epoch, step_in_epoch = divmod(done - 1, len(self.loader))
            if step_in_epoch == 0:
                self._start_epoch(epoch, alpha_now)
            metrics.add(self.step(batch, alpha_now))
            end_of_epoch = done % len(self.loader) == 0
            if end_of_epoch or done % self.config.run.log_steps == 0:
                self._log_training(metrics, epoch, done, done - logged)
                logged = done
            if end_of_epoch:
                with self.clock.not_training():
                    self.group.same_buffers(self.model)
                    if self._evaluation_is_due(epoch):
                        self._evaluate(epoch, done)
                    self._save(self.folder.last, done)

    def _start_epoch(self, epoch: int, alpha_now: torch.Tensor) -> None:
        optim = self.config.optim
        cumulative = self.step.objective.cumulative
        alpha_now.fill_(alpha(epoch, optim.epochs, cumulative=cumulative))
        set_learning_rate(self.step.optimizer, self._learning_rate(epoch))

    def _learning_rate(self, epoch: int) -> float:
        optim = self.config.optim
        return learning_rate(optim.schedule, self.config.base_lr, epoch, optim.epochs)

    def _log_training(self, metrics: MeanMetrics, epoch: int, done: int, steps: int) -> None:
        means = metrics.read()
        if not np.isfinite(means["loss"]):
            raise UserError(
                f"the loss is {means['loss']} in epoch {epoch} before step {done}: lower optim.lr (it is "
                f"{self.config.optim.lr}); the last checkpoint, if there is one, is {self.folder.last}"
            )
        pairs_per_second = self._pairs_per_second(done)
        views = self.step.objective.views
        self.log.progress(steps, views * pairs_per_second, means["loss"])
        self.log.write(
            {
                "kind": "train",
                "epoch": epoch,
                "step": done,
                **means,
                "learning_rate": self._learning_rate(epoch),
                "alpha": alpha(epoch, self.config.optim.epochs, cumulative=self.step.objective.cumulative),
                "pairs_per_second": pairs_per_second,
                "images_per_second": views * pairs_per_second,
            }
        )

    def _pairs_per_second(self, done: int) -> float:
        """Source pairs a second over all ranks since this process started, evaluation left out."""
        return (done - self.first_step) * self.config.optim.batch_size / self.clock.training_seconds

    def _evaluation_is_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.config.run.eval_epochs == 0 or epoch + 1 == self.config.optim.epochs

    def _evaluate(self, epoch: int, done: int) -> None:
        """Evaluate on every split, keep what the summary needs, and save the best epoch so far."""
        records = {split: self._evaluate_split(split, epoch, done) for split in self.eval_loaders}
        self.last = records.get("test")
        split = "val" if "val" in records else "test"
        if split in records and (self.best is None or records[split]["all"] > self.best["chosen_at"]):
            chosen_at = records[split]["all"]
            self.best = {"epoch": epoch, "split": split, "chosen_at": chosen_at, **(self.last or {})}
            self._save(self.folder.best, done)

    def _evaluate_split(self, split: str, epoch: int, done: int) -> dict[str, Any]:
        """Log both heads' accuracy on one split; returns that of the inference head."""
        objective = self.step.objective
        counts = evaluate(
            self.model,
            self.eval_loaders[split],
            objective.trained_heads,
            self.group,
            self.step.autocast(),
        )
        records = {}
        for head, sums in counts.heads.items():
            records[head] = head_figures(sums, self.class_counts)
            spread = counts.projection_spread if "projection" in objective.trained_layers else None
            self.log.write(
                {
                    "kind": "eval",
                    "split": split,
                    "head": head,
                    "epoch": epoch,
                    "step": done,
                    **{name: records[head][name] for name in LOGGED_FIGURES},
                    "projection_spread": spread,
                }
            )
        return records[objective.inference_head]

    def _save(self, path: Path, done: int) -> None:
        if not self.group.is_main:
            return
        save_checkpoint(
            Checkpoint(
                step=done,
                model=self.model.state_dict(),
                optimizer=self.step.optimizer.state_dict(),
                scaler=self.step.scaler.state_dict(),
                config=self.config.to_dict(),
                last=self.last,
                best=self.best,
                seconds=self.clock.total_seconds,
                versions=self.versions,
            ),
            path,
        )
