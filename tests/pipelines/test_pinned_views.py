"""Views through pinned memory: slots and devices, on a GPU (test_slot_ring.py has the bookkeeping without one)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.beton.reader import BetonFile
from pipelines.draws.views import ViewSettings
from pipelines.pinned_views import PinnedViews
from pipelines.thread_pool import ThreadPool
from pipelines.view_sources import open_views

VIEW = ViewSettings(size=30, eval_resize=34)


@pytest.mark.gpu
def test_a_batch_that_is_released_and_then_discarded_frees_its_slot_once(
    photographs: BetonFile, pool: ThreadPool
) -> None:
    source = open_views(photographs, VIEW)
    feed = PinnedViews(source, VIEW.size, pool, torch.device("cuda", 0))
    failing = feed.evaluation(np.arange(9))
    feed.release(failing.result())
    first = feed.evaluation(np.arange(7, 16))
    failing.discard()  # what failed did so after the release, and its slot is another's
    second = feed.evaluation(np.arange(11, 20))
    for pending, start in ((first, 7), (second, 11)):
        expected = np.empty((9, 30, 30, 3), np.uint8)
        source.evaluation_views(np.arange(start, start + 9), expected)
        np.testing.assert_array_equal(pending.result()[0].cpu().numpy(), expected)
        pending.discard()


ON_THE_SECOND = """
import sys
import numpy as np
import torch
from pipelines.beton.reader import open_beton
from pipelines.pinned_views import PinnedViews
from pipelines.thread_pool import ThreadPool
from pipelines.draws.views import ViewSettings
from pipelines.view_sources import open_views

torch.cuda.set_device(1)
source = open_views(open_beton(sys.argv[1]), ViewSettings(size=30, eval_resize=34))
with ThreadPool(2) as pool:
    feed = PinnedViews(source, 30, pool, torch.device("cuda", 1))
    for _ in range(3):
        feed.release(feed.evaluation(np.arange(20)).result())
    torch.cuda.synchronize()
print([torch._C._cuda_hasPrimaryContext(device) for device in (0, 1)])
"""


@pytest.mark.gpu
def test_a_process_on_the_second_gpu_leaves_the_first_alone(photographs: BetonFile) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine refuses a second GPU: it has one")
    command = [sys.executable, "-c", ON_THE_SECOND, str(photographs.path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "[False, True]\n", done.stderr
