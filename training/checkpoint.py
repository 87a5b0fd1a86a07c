"""Everything that changes during a run, saved together and loaded without running code."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import torch

from pipelines.user_error import UserError
from pipelines.whole_file import hidden_path, publish
from training.disk_errors import disk_errors, written_whole


@dataclass
class Checkpoint:
    """The state of a run after `step` steps; what is not here is a function of the configuration.

    Which images, which crops, λ and the cut boxes are functions of (seed, epoch, place), so no generator's state
    is kept, and the position in the data is `step` alone. No tensor holds a wall-clock value: on a CPU two runs with
    the same settings have the same tensors, however often they were stopped.
    """

    step: int
    """Steps done, over all epochs."""
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, torch.Tensor]
    """`LossScale.state_dict()`"""
    config: dict[str, Any]
    """The resolved configuration, `Config.to_dict()`."""
    last: dict[str, Any] | None
    """Accuracy of the latest evaluation on data.test, None before the first."""
    best: dict[str, Any] | None
    """Accuracy of the best epoch so far, with the epoch and the split that chose it; None before the first."""
    seconds: float
    """Wall time of training up to here, over all starts."""
    versions: dict[str, str]
    metrics: dict[str, Any] = field(default_factory=dict)
    """`MeanMetrics.state_dict()`: the losses since the last log entry; empty at the end of an epoch."""
    data: dict[str, str] = field(default_factory=dict)
    """`BetonFile.digest` of each beton, by split."""
    bad_in_a_row: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    """0-dim int64: steps up to here whose loss was not finite."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write whole or not at all: under a hidden name, flushed to disk, then renamed."""
    with disk_errors(path, "the checkpoint"):
        path.parent.mkdir(exist_ok=True)  # without its parents: a run folder that was taken away stays away
    with written_whole(path, "the checkpoint") as file:
        torch.save(vars(checkpoint), file)


def give_name(checkpoint: Path, name: Path) -> None:
    """Let `name` stand for the file `checkpoint` too, instead of what it stood for; never for nothing between.

    A hard link where the file system has them, else a copy.
    """
    with disk_errors(name, "the checkpoint"):
        hidden = hidden_path(name)
        hidden.unlink(missing_ok=True)
        try:
            os.link(checkpoint, hidden)
        except OSError:
            shutil.copyfile(checkpoint, hidden)
        with hidden.open("r+b") as file:
            publish(file, name)


class TornCheckpointError(UserError):
    """A file that is torn, or of another program."""


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint; `weights_only`, so that nothing in the file is executed.

    Raises:
        TornCheckpointError: the file is torn, or of another program.
        UserError: the file is not there or cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot open the checkpoint: {error.strerror}") from None
    with file:
        try:
            _check_sums(file)
            return Checkpoint(**torch.load(file, map_location=device, weights_only=True))
        except Exception as error:  # fed with a torn or a foreign file, PyTorch's reader raises anything
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # the disk's fault, not the file's
                raise UserError(f"{path}: cannot read the checkpoint: {error.strerror}") from None
            raise TornCheckpointError(
                f"{path} is not a whole checkpoint of fasttail ({type(error).__name__}); remove it or use another"
            ) from None


def _check_sums(file: BinaryIO) -> None:
    """Read the file against its checksums, which PyTorch's reader leaves out: a flipped bit would become a weight."""
    with ZipFile(file) as archive:
        if name := archive.testzip():
            raise BadZipFile(name)
    file.seek(0)


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Put a checkpoint's weights into a model of the same shape."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in checkpoint.model.items()}
    for name in sorted(own.keys() | saved.keys()):
        if own.get(name) != saved.get(name):
            raise UserError(
                f"{path} does not fit the model: {name} is {saved.get(name, 'missing')} in the file and "
                f"{own.get(name, 'missing')} in the model; use the backbone, width and classes it was trained with"
            )
    model.load_state_dict(checkpoint.model)


def config_differences(ours: dict[str, Any], saved: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two resolved configurations differ, with both values."""
    differences = []
    for key in sorted(ours.keys() | saved.keys()):
        mine, theirs = ours.get(key), saved.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            differences += config_differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            differences.append(f"{prefix}{key} ({theirs} there, {mine} here)")
    return differences
