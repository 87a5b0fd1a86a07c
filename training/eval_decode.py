"""Who decodes the images of an evaluation: the checkpoint's decoder, or the one that is asked for.

Decoders differ in a few pixels, so a checkpoint is evaluated by the one that it was trained with where the device
allows it. It may not: a run of one machine is evaluated on another.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pipelines.dali_graph import DaliSettings
from pipelines.open_images import choose_decode, parse_decode
from pipelines.user_error import UserError
from training.build import dali_engines_vary
from training.config import Config


def with_eval_decode(config: Config, asked: str | None, device: torch.device) -> Config:
    """A checkpoint's settings with the decoder `asked` for, or with its own.

    Where the device does not have its own, it is the device's default; but the CPU's threads where the run was
    deterministic and chance would choose the engine.

    Raises:
        UserError: what is asked for does not exist, or not on this device.
    """
    if config.view.crop == "padded":
        if asked is not None:
            raise UserError(
                "--decode has no effect with a checkpoint of view.crop padded, which decodes nothing"
            )
        return config
    if asked is not None:
        choose_decode(parse_decode(asked), device, config.view)
        return _decoded_by(config, asked)
    own = _decoded_by(config, config.data.decode if _is_here(config, device) else "auto")
    if config.run.deterministic and dali_engines_vary(own, device):
        return _decoded_by(config, "cpu")
    return own


def _is_here(config: Config, device: torch.device) -> bool:
    try:
        choose_decode(parse_decode(config.data.decode), device, config.view)
    except UserError:
        return False
    return True


def _decoded_by(config: Config, decode: str) -> Config:
    """Settings of DALI are kept where it may use them, for a configuration refuses those that nobody reads.

    An evaluation is not asked to be deterministic: its forward passes are not made so.
    """
    dali = {
        "cpu": DaliSettings(),
        "dali-cpu": replace(DaliSettings(), threads=config.dali.threads),
    }.get(decode, config.dali)
    data, run = replace(config.data, decode=decode), replace(config.run, deterministic=False)
    return replace(config, data=data, dali=dali, run=run)
