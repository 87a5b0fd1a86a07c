"""The training loop as a paragraph: step, log, evaluate, checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.beton.reader import BetonFile
from pipelines.eval_loader import EvalLoader
from pipelines.resident.loader import ResidentLoader
from pipelines.train_loader import TrainLoader
from training.bad_steps import bad_steps_error, images_of_step, write_bad_steps
from training.checkpoint import Checkpoint
from training.checkpoint_writer import CheckpointWriter
from training.clock import Clock
from training.config import Config
from training.evaluation import evaluate, head_figures
from training.model import LongTailModel
from training.optimizer import set_learning_rate
from training.process_group import ProcessGroup
from training.run_folder import RunFolder
from training.run_log import RunLog
from training.schedule import alpha, learning_rate
from training.step import MeanMetrics, StepInput, TrainStep
from training.stop_signals import SAVE, StopSignals

LOGGED_FIGURES = (
    *("all", "many", "medium", "few", "top5", "worst", "geometric_mean", "harmonic_mean"),
    "calibration_error",
)
"""Of each evaluation; all of the last and the best epoch's are in summary.json."""


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
    betons: dict[str, BetonFile]
    """By split: "train" and those of `eval_loaders`."""
    log: RunLog
    clock: Clock
    versions: dict[str, str]
    writer: CheckpointWriter | None = None
    """None on every rank but 0."""
    metrics: MeanMetrics = field(default_factory=MeanMetrics)
    """Losses since the last log entry."""
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

    @property
    def train_set(self) -> BetonFile:
        """What is trained on."""
        return self.betons["train"]

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """(C,) training images of each class."""
        return self.train_set.counts

    def train(self) -> int:
        """From `first_step` to the end of the last epoch, or to a signal; returns the exit status, 0 at the end."""
        try:
            with StopSignals(self.group) as stop:
                status = self._train(stop)
                if self.writer is not None:
                    self.writer.wait()
            if status:
                self.log.say(f"Stopped by a signal. {self._where_to_go_on()}")
            return status
        except KeyboardInterrupt:
            self.log.say(self._where_to_go_on())
            raise
        finally:
            if self.writer is not None:
                self.writer.close()
            self.log.close()

    def _where_to_go_on(self) -> str:
        if self.folder.last.exists():
            return f"{self.folder.last} holds the run; the same command goes on from there"
        return f"{self.folder.path} holds no checkpoint yet; the same command begins anew"

    def _train(self, stop: StopSignals) -> int:
        alpha_now = torch.zeros((), device=self.group.device)
        batches: Iterable[StepInput] = self.loader.batches(self.first_step)
        asked, done, epoch_now = 0, self.first_step, -1
        for done, batch in enumerate(batches, self.first_step + 1):
            epoch = (done - 1) // len(self.loader)
            if epoch != epoch_now:
                self._start_epoch(epoch, alpha_now)
                epoch_now = epoch
            self.metrics.add(self.step(batch, alpha_now), self.step.guard.good)
            end_of_epoch = done % len(self.loader) == 0
            if end_of_epoch or done % self.config.run.log_steps == 0:
                self._log_training(epoch, done)
            if end_of_epoch:
                with self.clock.not_training():
                    self._save(done, is_best=self._finish_epoch(epoch, done))
            asked = stop.asked(done, save=self._save_is_due())
            if asked and not end_of_epoch:
                with self.clock.not_training():
                    self._save(done)
            if asked > SAVE:
                break
        return 0 if done == self.loader.total_steps else asked

    def _save_is_due(self) -> bool:
        return self.writer is not None and self.writer.is_due()

    def _finish_epoch(self, epoch: int, done: int) -> bool:
        """Evaluate if it is time to; returns whether the epoch is the best so far."""
        self.group.same_buffers(self.model)
        return self._evaluation_is_due(epoch) and self._evaluate(epoch, done)

    def _start_epoch(self, epoch: int, alpha_now: torch.Tensor) -> None:
        optim = self.config.optim
        cumulative = self.step.objective.cumulative
        alpha_now.fill_(alpha(epoch, optim.epochs, cumulative=cumulative))
        set_learning_rate(self.step.optimizer, self._learning_rate(epoch))

    def _learning_rate(self, epoch: int) -> float:
        optim = self.config.optim
        return learning_rate(optim.schedule, self.config.base_lr, epoch, optim.epochs)

    def _log_training(self, epoch: int, done: int) -> None:
        steps = self.metrics.steps
        means = self.metrics.read(self.group)
        bad_in_a_row = int(self.step.guard.in_a_row)
        if bad_in_a_row >= self.config.run.max_bad_steps:
            self._stop_for_bad_steps(done - bad_in_a_row + 1)
        pairs_per_second = self._pairs_per_second(done)
        views = self.step.objective.views
        self.log.progress(
            min(steps, done - self.first_step), views * pairs_per_second, means.get("loss", float("nan"))
        )
        self.log.write(
            {
                "kind": "train",
                "epoch": epoch,
                "step": done,
                **means,
                "bad_steps": self.metrics.left_out,
                "learning_rate": self._learning_rate(epoch),
                "alpha": alpha(epoch, self.config.optim.epochs, cumulative=self.step.objective.cumulative),
                "pairs_per_second": pairs_per_second,
                "images_per_second": views * pairs_per_second,
            }
        )

    def _stop_for_bad_steps(self, first: int) -> None:
        if self.writer is not None:
            self.writer.wait()
        counted = range(first, first + self.config.run.max_bad_steps)
        steps = [images_of_step(done, self.loader, self.train_set) for done in counted]
        if self.group.is_main:
            write_bad_steps(steps, self.folder)
        raise bad_steps_error(steps, self.config, self.folder)

    def _pairs_per_second(self, done: int) -> float:
        """Source pairs a second over all ranks since this process started, evaluation left out."""
        return (done - self.first_step) * self.config.optim.batch_size / self.clock.training_seconds

    def _evaluation_is_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.config.run.eval_epochs == 0 or epoch + 1 == self.config.optim.epochs

    def _evaluate(self, epoch: int, done: int) -> bool:
        """Evaluate on every split and keep what the summary needs; returns whether the epoch is the best so far."""
        records = {split: self._evaluate_split(split, epoch, done) for split in self.eval_loaders}
        self.last = records.get("test")
        split = "val" if "val" in records else "test"
        if split not in records or (
            self.best is not None and records[split]["all"] <= self.best["chosen_at"]
        ):
            return False
        chosen_at = records[split]["all"]
        self.best = {"epoch": epoch, "split": split, "chosen_at": chosen_at, **(self.last or {})}
        return True

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

    def _save(self, done: int, *, is_best: bool = False) -> None:
        """Begin to save the run after `done` steps, unless it has lost its way and is not at its end; on all ranks."""
        metrics = self.metrics.state_dict(self.group)
        if self.writer is None or (self.step.guard.in_a_row > 0 and done < self.loader.total_steps):
            return
        self.writer.save(
            Checkpoint(
                step=done,
                model=self.model.state_dict(),
                optimizer=self.step.optimizer.state_dict(),
                scaler=self.step.loss_scale.state_dict(),
                config=self.config.to_dict(),
                last=self.last,
                best=self.best,
                seconds=self.clock.total_seconds,
                versions=self.versions,
                metrics=metrics,
                data={split: beton.digest for split, beton in self.betons.items()},
                bad_in_a_row=self.step.guard.in_a_row,
            ),
            is_best=is_best,
        )
