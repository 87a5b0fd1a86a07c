"""A resident loader gives the batches of the ordinary one, whose images numba makes on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import RAW_MODE, SMALLEST_PAGE
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.beton.writer import write_beton
from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewSettings
from pipelines.images_cpu import CpuImages
from pipelines.rank_slice import RankSlice
from pipelines.resident.loader import ResidentLoader
from pipelines.sources.image_list import from_rows
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader, PlainLoader
from pipelines.user_error import UserError
from pipelines.view_sources import open_views

REPOSITORY = Path(__file__).resolve().parents[3]
COUNTS, SIZE, BATCH, EPOCHS = (13, 5, 3), 11, 5, 3
STEPS = 5
"""ceil(21 / 5): the last batch of an epoch is filled from its start."""


def open_loader(
    beton: BetonFile, pool: ThreadPool, method: str, *, scope: str = "sample", augment: str = "none"
) -> PairedLoader | PlainLoader:
    settings = LoaderSettings(
        view=ViewSettings(size=SIZE, crop="padded", pad=2, augment=augment),
        seed=3,
        epochs=EPOCHS,
        global_batch=BATCH,
        prefetch=2,
        device=torch.device("cpu"),
    )
    images = CpuImages(open_views(beton, settings.view), settings.view, pool)
    if method == "ce":
        return PlainLoader(beton, settings, RankSlice(0, 1), images)
    mix = MixSettings(beta=0.7, scope=scope, cut_label="area")
    return PairedLoader(beton, settings, RankSlice(0, 1), images, q=0.8, mix=mix)


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> BetonFile:
    """Noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (sum(COUNTS), SIZE, SIZE, 3), np.uint8)
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    images = from_rows(
        [f"noise/{i}" for i in range(len(labels))], labels, ["0", "1", "2"], kind="n", name="n"
    )
    encoded = (EncodedImage(image.tobytes(), RAW_MODE, SIZE, SIZE, copied=False) for image in pixels)
    path = tmp_path_factory.mktemp("noise") / "noise.beton"
    write_beton(path, images, encoded, settings={}, page_size=SMALLEST_PAGE)
    return open_beton(path)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPool]:
    with ThreadPool(1) as pool:
        yield pool


@pytest.mark.parametrize("first_step", [0, 1, STEPS, 2 * STEPS + 3, EPOCHS * STEPS])
@pytest.mark.parametrize(("method", "scope"), [("ce", "sample"), ("glmc", "sample"), ("glmc", "batch")])
def test_batches_are_those_of_the_ordinary_loader(
    beton: BetonFile, pool: ThreadPool, method: str, scope: str, first_step: int
) -> None:
    ordinary = open_loader(beton, pool, method, scope=scope)
    resident = ResidentLoader(ordinary, beton, pool, dtype=torch.float32, kernel=False)
    assert (len(resident), resident.total_steps) == (STEPS, EPOCHS * STEPS)
    ours, theirs = resident.batches(first_step), list(ordinary.batches(first_step))
    assert len(ours) == len(theirs) == EPOCHS * STEPS - first_step
    count = 0
    for take, expected in zip(ours, theirs, strict=True):
        batch, count = take(), count + 1
        for name in ("label_a", "label_b", "lam"):
            assert torch.equal(getattr(batch, name), getattr(expected, name)), name
            assert getattr(batch, name).is_contiguous()
        torch.testing.assert_close(batch.images, expected.images, rtol=1e-5, atol=1e-5)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert count == len(theirs)


def test_images_come_in_the_precision_asked_for(beton: BetonFile, pool: ThreadPool) -> None:
    ordinary = open_loader(beton, pool, "glmc")
    resident = ResidentLoader(ordinary, beton, pool, dtype=torch.bfloat16, kernel=False)
    take, expected = next(iter(resident.batches())), next(iter(ordinary.batches()))
    torch.testing.assert_close(take().images, expected.images.bfloat16(), rtol=2**-7, atol=1e-3)


def test_an_epoch_left_early_leaves_nothing_running(beton: BetonFile, pool: ThreadPool) -> None:
    resident = ResidentLoader(
        open_loader(beton, pool, "glmc"), beton, pool, dtype=torch.float32, kernel=False
    )
    batches = iter(resident.batches(7))
    next(batches)
    batches.close()
    assert pool.submit(lambda: 5).result(timeout=10) == 5


def test_colours_are_refused(beton: BetonFile, pool: ThreadPool) -> None:
    loader = open_loader(beton, pool, "glmc", augment="jitter-gray-blur")
    with pytest.raises(UserError, match=r"noise\.beton: only small raw images .* view\.augment none"):
        ResidentLoader(loader, beton, pool, dtype=torch.float32, kernel=False)


COMPARE = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, str(Path(sys.argv[1]).parent))
from test_loader import open_loader
from pipelines.beton.reader import open_beton
from pipelines.resident.loader import ResidentLoader
from pipelines.thread_pool import ThreadPool

beton = open_beton(sys.argv[2])
with ThreadPool(1) as pool:
    for method in ("ce", "glmc"):
        loader = open_loader(beton, pool, method)
        made = [ResidentLoader(loader, beton, pool, dtype=torch.float32, kernel=kernel) for kernel in (False, True)]
        for _, plain, kernel in zip(range(2), *(iter(each.batches(4)) for each in made)):
            plain, kernel = plain(), kernel()
            torch.testing.assert_close(kernel.images, plain.images, rtol=1e-5, atol=1e-5)
            assert kernel.images.is_contiguous(memory_format=torch.channels_last)
"""


def test_the_kernel_makes_the_images_of_plain_pytorch(beton: BetonFile) -> None:
    """Interpreted, in a process of its own: Triton must know before it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", COMPARE, __file__, str(beton.path)], env=environment, check=True)
