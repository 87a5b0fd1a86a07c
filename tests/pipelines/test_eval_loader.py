from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image

from pipelines.batch import EvalBatch
from pipelines.beton.reader import BetonFile
from pipelines.draws.views import ViewSettings
from pipelines.eval_loader import EvalLoader
from pipelines.images_cpu import CpuImages
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from pipelines.user_error import UserError
from pipelines.view_sources import open_views

MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)
PHOTOGRAPH_VIEWS = ViewSettings(size=40, eval_resize=53, mean=MEAN, std=STD)
DIGIT_VIEWS = ViewSettings(size=32, crop="padded", mean=MEAN, std=STD)


def _loader(
    beton: BetonFile,
    pool: ThreadPool,
    view: ViewSettings = PHOTOGRAPH_VIEWS,
    *,
    rank: int = 0,
    world_size: int = 1,
    local_batch: int = 6,
) -> EvalLoader:
    ranks = RankSlice(rank, world_size)
    images = CpuImages(open_views(beton, view), view, pool)
    return EvalLoader(beton, view, ranks, images, local_batch=local_batch, device=torch.device("cpu"))


def _levels(images: torch.Tensor) -> np.ndarray:
    """(n, H, W, 3) float64, of 255, of normalised images (n, 3, H, W)."""
    return (images.permute(0, 2, 3, 1).double().numpy() * STD + MEAN) * 255


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("local_batch", [1, 5, 30])
def test_every_image_is_counted_once_over_all_ranks(
    digits: BetonFile, photographs: BetonFile, pool: ThreadPool, world_size: int, local_batch: int
) -> None:
    for beton, view in ((photographs, PHOTOGRAPH_VIEWS), (digits, DIGIT_VIEWS)):
        counted = []
        lengths = set()
        for rank in range(world_size):
            loader = _loader(beton, pool, view, rank=rank, world_size=world_size, local_batch=local_batch)
            batches = list(loader)
            lengths.add(len(batches))
            for batch in batches:
                assert batch.images.shape == (local_batch, 3, view.size, view.size)
                assert batch.images.dtype == torch.float32
                assert batch.images.is_contiguous(memory_format=torch.channels_last)
                assert batch.labels.shape == batch.counted.shape == (local_batch,)
                assert batch.labels.dtype == torch.int64 and batch.counted.dtype == torch.bool
                shown = np.rint(_levels(batch.images)).astype(np.uint8)
                counted += [
                    (image.tobytes(), int(label))
                    for image, label, counts in zip(shown, batch.labels, batch.counted, strict=True)
                    if counts
                ]
        assert len(lengths) == 1  # the ranks meet in as many collectives
        if beton is digits:
            images = [digits.image_bytes(i).tobytes() for i in range(digits.num_images)]
            assert sorted(counted) == sorted(zip(images, digits.labels.tolist(), strict=True))
        else:
            assert len(set(counted)) == len(counted) == 23
            assert sorted(label for _, label in counted) == sorted(beton.labels.tolist())


def test_photographs_are_resized_and_cut_as_torchvision_does(
    photographs: BetonFile, photograph_files: list[Path], photograph_labels: np.ndarray, pool: ThreadPool
) -> None:
    batches = list(_loader(photographs, pool))
    images = np.concatenate([_levels(batch.images) for batch in batches])
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    np.testing.assert_array_equal(labels[:23], photograph_labels)
    assert np.concatenate([batch.counted.numpy() for batch in batches]).tolist() == [True] * 23 + [False]
    for file, image in zip(photograph_files, images, strict=False):
        with Image.open(file) as source:
            expected = np.asarray(TF.center_crop(TF.resize(source, 53), [40, 40]))
        assert np.abs(image - expected).max() <= 1 + 1e-3
    np.testing.assert_array_equal(images[23], images[0])  # the padding is image 0, never an unfilled one


def test_digits_are_exactly_the_images(digits: BetonFile, pool: ThreadPool) -> None:
    (batch,) = _loader(digits, pool, DIGIT_VIEWS, local_batch=digits.num_images)
    expected = np.stack([digits.image_bytes(i) for i in range(digits.num_images)])
    np.testing.assert_allclose(_levels(batch.images), expected, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(batch.labels, digits.labels)


def _same(a: EvalBatch, b: EvalBatch) -> bool:
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.counted, b.counted)
    )


def test_iterating_again_gives_the_same_for_any_number_of_threads(photographs: BetonFile) -> None:
    runs = []
    for threads in (1, 3):
        with ThreadPool(threads) as pool:
            loader = _loader(photographs, pool)
            runs += [list(loader), list(loader)]
    for run in runs[1:]:
        assert len(run) == 4 and all(map(_same, run, runs[0]))


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_bad_image_ends_the_evaluation_with_its_name(
    photographs: BetonFile,
    break_off: Callable[[BetonFile, int, Path], BetonFile],
    pool: ThreadPool,
    tmp_path: Path,
    cut_off: bool,
) -> None:
    beton = break_off(photographs, 14, tmp_path / "damaged.beton")
    if not cut_off:  # nothing of the image is left, its first bytes neither
        with beton.path.open("r+b") as file:
            file.seek(int(beton.offsets[14]))
            file.write(bytes(int(beton.sizes[14])))
    message = (
        rf"{re.escape(str(tmp_path))}/damaged\.beton: image 14 \(00014\.jpg\) is not a readable JPEG .*"
        "convert the set again"
    )
    seen = []
    with pytest.raises(UserError, match=message):
        for batch in _loader(beton, pool):
            seen.append(batch)
    assert len(seen) == 2  # images 0 to 11 are sound
