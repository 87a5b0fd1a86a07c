"""What changes from epoch to epoch: GLMC's cumulative α and the learning rate. Both are pure functions.

Epochs count from 0, and both values are constant inside an epoch, as in all the code bases compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pipelines.user_error import UserError

WARMUP_EPOCHS = 10
"""Length of the linear warm-up, in epochs (PaCo's ImageNet-LT script, which GLMC took over)."""


def alpha(epoch: int, epochs: int, *, cumulative: bool) -> float:
    """Weight of the conventional loss, 1 - (epoch / epochs)² (GLMC, section 3.3); 1 where not `cumulative`.

    It is 1 in epoch 0, so that the rebalanced head learns nothing then and its accuracy is chance.
    """
    _check_epoch(epoch, epochs)
    return 1 - (epoch / epochs) ** 2 if cumulative else 1.0


def learning_rate(schedule: str, base_lr: float, epoch: int, epochs: int) -> float:
    """Learning rate of `epoch` (0-based) out of `epochs` by the schedule named in `SCHEDULES`.

    Raises `UserError` for an unknown schedule and for a run that ends with the warm-up.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"schedule {schedule!r} is not known; choose one of {', '.join(SCHEDULES)}")
    _check_epoch(epoch, epochs)
    return base_lr * SCHEDULES[schedule](epoch, epochs)


def _cosine(epoch: int, epochs: int) -> float:
    """From 1 towards 0, without warm-up: GLMC's CIFAR-LT runs at HEAD."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def _warmup_cosine_cvpr(epoch: int, epochs: int) -> float:
    """PaCo's rule, set before each epoch: 0.1, 0.2, ... 1 over the first 10 epochs, then cosine."""
    _check_warmup(epochs)
    if epoch < WARMUP_EPOCHS:
        return (epoch + 1) / WARMUP_EPOCHS
    return _cosine_after_warmup(epoch, epochs)


def _warmup_cosine_head(epoch: int, epochs: int) -> float:
    """GLMC's last commit (2c0261c): PaCo's rule set *after* each epoch, with `<=` where PaCo has `<`.

    So epoch 0 runs at the full rate, epochs 1 to 11 at 0.1, 0.2, ... 1.1, and the cosine is an epoch late.
    """
    _check_warmup(epochs)
    if epoch == 0:
        return 1.0
    set_after = epoch - 1
    if set_after <= WARMUP_EPOCHS:
        return (set_after + 1) / WARMUP_EPOCHS
    return _cosine_after_warmup(set_after, epochs)


def _cosine_after_warmup(epoch: int, epochs: int) -> float:
    progress = (epoch - WARMUP_EPOCHS + 1) / (epochs - WARMUP_EPOCHS + 1)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _check_warmup(epochs: int) -> None:
    if epochs <= WARMUP_EPOCHS:
        raise UserError(
            f"{epochs} epochs end within the warm-up of {WARMUP_EPOCHS} epochs; train for longer or use the "
            "schedule 'cosine', which has no warm-up"
        )


def _check_epoch(epoch: int, epochs: int) -> None:
    assert 0 <= epoch < epochs, f"epoch {epoch} of {epochs}"


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "cosine": _cosine,
    "warmup-cosine-cvpr": _warmup_cosine_cvpr,
    "warmup-cosine-head": _warmup_cosine_head,
}
"""Factors of the base learning rate by name, called with (epoch, epochs)."""
