from __future__ import annotations

import numpy as np
import torch

from pipelines.batch_memory import KEPT, BatchMemory


def test_memory_goes_round_and_what_is_referred_to_stays() -> None:
    memory = BatchMemory()
    address = memory.take((3, 4), np.float32).ctypes.data
    assert memory.take((3, 4), np.float32).ctypes.data == address  # nobody kept it
    images = torch.from_numpy(memory.take((3, 4), np.float32))
    assert images.data_ptr() == address
    images.fill_(7)
    part = images.view(4, 3).permute(1, 0)[1:]
    del images  # a view of it is still there
    other = memory.take((3, 4), np.float32)
    assert other.ctypes.data != address
    other.fill(0)
    assert (part == 7).all()
    del part
    assert memory.take((3, 4), np.float32).ctypes.data == address


def test_shape_and_type_are_those_asked_for() -> None:
    memory = BatchMemory()
    addresses = set()
    for shape, dtype in (((3, 4), np.float32), ((4, 3), np.float32), ((3, 4), np.uint8)):
        array = memory.take(shape, dtype)
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        addresses.add(array.ctypes.data)
    assert len(addresses) == 3


def test_whoever_keeps_every_batch_is_the_only_one_to_keep_them() -> None:
    memory = BatchMemory()
    batches = [memory.take((5,), np.float64) for _ in range(3 * KEPT)]
    assert len({batch.ctypes.data for batch in batches}) == 3 * KEPT
    assert len(memory._arrays) == KEPT
