"""Everything that changes during a run, saved together and loaded without running code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.user_error import UserError


@dataclass
class Checkpoint:
    """The state of a run after `step` steps; what is not here is a function of the configuration.

    Which images, which crops, λ and the cut boxes are functions of (seed, epoch, place), so no generator's state
    is kept, and the position in the data is `step` alone.
    """

    step: int
    """Steps done, over all epochs."""
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    config: dict[str, Any]
    """The resolved configuration, `Config.to_dict()`."""
    last: dict[str, Any] | None
    """Accuracy of the latest evaluation on data.test, None before the first."""
    best: dict[str, Any] | None
    """Accuracy of the best epoch so far, with the epoch and the split that chose it; None before the first."""
    seconds: float
    """Wall time of training up to here, over all starts."""
    versions: dict[str, str]


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write whole or not at all: under a temporary name, flushed to disk, then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(vars(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch's zip writer turns a full disk into a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).split("\n", 1)[0]
        raise UserError(
            f"{path}: cannot write the checkpoint: {reason}; make room, or mend the folder"
        ) from None


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint; `weights_only`, so that nothing in the file is executed."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot open the checkpoint: {error.strerror}") from None
    with file:
        try:
            return Checkpoint(**torch.load(file, map_location=device, weights_only=True))
        except Exception as error:  # fed with a torn or a foreign file, PyTorch's reader raises anything
            raise UserError(
                f"{path} is not a whole checkpoint of fasttail ({type(error).__name__}); remove it or use another"
            ) from None


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
