"""Parts of a batch hold whole pairs, in order."""

from __future__ import annotations

import pytest
import torch

from pipelines.batch import Batch
from training.micro_batches import split_pairs


@pytest.mark.parametrize(("views", "pairs", "parts"), [(2, 6, 3), (1, 4, 2), (2, 5, 1)])
def test_parts_are_whole_pairs(views: int, pairs: int, parts: int) -> None:
    """Every image carries the number of its view and pair, and finds its labels and λ beside it."""
    number = torch.arange(views)[:, None] * 100 + torch.arange(pairs)
    images = number.reshape(-1, 1, 1, 1).expand(-1, 3, 4, 5).float()
    batch = Batch(
        images.contiguous(memory_format=torch.channels_last),
        label_a=torch.arange(pairs),
        label_b=torch.arange(pairs) + 50,
        lam=number / 1000,
    )
    size, seen = pairs // parts, []
    for part in split_pairs(batch, parts):
        assert part.images.shape == (views * size, 3, 4, 5)
        assert part.images.is_contiguous(memory_format=torch.channels_last)
        own = part.label_a.tolist()
        seen += own
        assert part.label_b.tolist() == [pair + 50 for pair in own]
        assert part.images[:, 1, 2, 3].tolist() == [100 * v + pair for v in range(views) for pair in own]
        torch.testing.assert_close(
            part.lam, torch.tensor([[v / 10 + p / 1000 for p in own] for v in range(views)])
        )
    assert seen == list(range(pairs))


def test_a_batch_that_does_not_divide() -> None:
    batch = Batch(torch.zeros(10, 3, 2, 2), torch.zeros(5), torch.zeros(5), torch.zeros(2, 5))
    with pytest.raises(AssertionError, match="5 pairs do not make 2 equal parts"):
        split_pairs(batch, 2)
