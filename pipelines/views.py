"""What passes from decode to augment and mix: the views of a batch, a tensor for each crop of the source images.

DALI makes each crop in a buffer of its own, so whatever takes views takes them apart: nothing is joined by a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Views = Sequence[torch.Tensor]
"""Of each of V views (n, H, W, 3) uint8; each view of an image is one run of bytes."""
