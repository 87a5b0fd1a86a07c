"""The loop itself does not wait for the device between two lines of its log: loader, step, means, signals, saving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipelines.resident.loader import ResidentLoader
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import TrainLoader
from training.build import build_trainer, open_betons
from training.checkpoint_writer import CheckpointWriter
from training.command_line import build_parser, parse_config
from training.loop import Trainer
from training.process_group import join_process_group
from training.run_folder import RunFolder
from training.step import StepInput

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # Inductor's own


class Watched:
    """The loader of a trainer; while it gives the batches of the second epoch, a wait for the GPU is an error.

    But for the first three and the last, around which the epoch's checkpoint is written and the log reads the device.
    """

    def __init__(self, trainer: Trainer, *, spoil: bool) -> None:
        self.trainer, self.inner = trainer, trainer.loader
        self.spoil = spoil
        self.given = 0

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def total_steps(self) -> int:
        return self.inner.total_steps

    def batches(self, first_step: int) -> Iterator[StepInput]:
        inner: TrainLoader | ResidentLoader = self.inner
        for self.given, batch in enumerate(inner.batches(first_step), 1):
            if self.given == len(self) + 4:
                assert self.trainer.writer is not None
                self.trainer.writer.wait()  # its thread waits for the copies
                forbid_waiting(self.trainer.group.device, forbidden=True)
            if self.given == 2 * len(self):
                forbid_waiting(self.trainer.group.device, forbidden=False)
            if self.spoil and self.given == len(self) + 5:
                torch.ones((), device=self.trainer.group.device).item()
            yield batch


def forbid_waiting(device: torch.device, *, forbidden: bool) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if forbidden else "default")


def train(command: list[str], folder: Path, *, spoil: bool = False) -> tuple[int, Watched]:
    config, _ = parse_config(build_parser("test", ""), command)
    run = RunFolder(folder)
    run.create()
    with join_process_group(config.run.device) as group, ThreadPool(2) as pool:
        trainer = build_trainer(config, open_betons(config), run, group, pool, anew=True)
        trainer.writer = CheckpointWriter(run, minutes=10, keep=1, first_step=0)
        watched = Watched(trainer, spoil=spoil)
        trainer.loader = watched
        try:
            return trainer.train(), watched
        finally:
            forbid_waiting(group.device, forbidden=False)


RUNS = {
    "cpu": ["--run.device=cpu"],
    "gpu": ["--run.device=cuda", "--view.augment=jitter-gray-blur"],
    "gpu-threads": ["--run.device=cuda", "--data.decode=cpu", "--run.compile=none"],
    "gpu-split": ["--run.device=cuda", "--data.decode=split:0.5", "--run.compile=none"],
    "gpu-two-parts": ["--run.device=cuda", "--optim.accumulate=2", "--run.compile=none"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.gpu if "gpu" in each else ()) for each in RUNS]
)
def test_photographs(name: str, photograph_options: Callable[..., list[str]], tmp_path: Path) -> None:
    """Ten steps an epoch, of which six are watched."""
    command = photograph_options(tmp_path, *RUNS[name], "--optim.batch_size=4", "--run.log_steps=1000")
    status, watched = train(command, tmp_path)
    assert (status, len(watched), watched.given) == (0, 10, 20)
    assert watched.trainer.last is not None, "evaluated"


@pytest.mark.gpu
def test_a_graph(options: Callable[..., list[str]], tmp_path: Path) -> None:
    settings = ["--run.device=cuda", "--run.cuda_graph=true", "--run.compile=none", "--run.log_steps=1000"]
    status, watched = train(options(tmp_path, *settings, "--optim.batch_size=16"), tmp_path)
    assert (status, len(watched), watched.given) == (0, 21, 42)


@pytest.mark.gpu
def test_a_wait_is_noticed(photograph_options: Callable[..., list[str]], tmp_path: Path) -> None:
    settings = ["--run.device=cuda", "--run.compile=none", "--optim.batch_size=4", "--run.log_steps=1000"]
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        train(photograph_options(tmp_path, *settings), tmp_path, spoil=True)
