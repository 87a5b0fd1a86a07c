"""Whether DALI decodes on this machine's GPU: one tiny image, before minutes are spent on what needs it.

That it is installed says little: its libraries, the driver or the virtual machine may refuse.
"""

from __future__ import annotations

import torch

from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.decode_dali import DaliDecoder
from pipelines.user_error import UserError


def refusal_of_dali(device: torch.device) -> str | None:
    """Why DALI does not decode on a device, in a line; None where it does."""
    shape = DaliShape(max_batch=1, views=1, size=16, depth=1)
    try:
        DaliDecoder(shape, DaliSettings(), threads=1, device=device)  # which decodes an image to warm up
    except (RuntimeError, UserError) as error:
        return " ".join(str(error).split())
    return None
