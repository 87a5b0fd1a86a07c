"""The same draws are the same pictures on every backend that runs without a GPU, and none leaves anything behind.

DALI's CPU decoder gives Pillow's pixels (test_decode_dali.py), so a view is within one level of the reference, and
two backends are within two of each other.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from pipelines import augment_reference, decode_reference, mix_reference
from pipelines.batch import Batch
from pipelines.beton.network_files import PreadFile
from pipelines.beton.reader import BetonFile
from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.dali_views import DaliViews
from pipelines.decode_dali import DaliDecoder
from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.eval_loader import EvalLoader
from pipelines.image_backend import ImageBackend
from pipelines.images_cpu import CpuImages
from pipelines.images_staged import StagedImages, ViewFeed
from pipelines.mix_stage_cpu import CpuMixStage
from pipelines.rank_slice import RankSlice
from pipelines.resident.device_views import ResidentDeviceViews
from pipelines.run_ahead import Pending
from pipelines.split_views import SplitViews
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader, PlainLoader
from pipelines.user_error import UserError
from pipelines.view_sources import ResidentViews, open_views
from pipelines.views import Views

CPU = torch.device("cpu")
VIEW = ViewSettings(size=28, eval_resize=33, mean=(0.4, 0.5, 0.3), std=(0.2, 0.25, 0.3))
DIGITS = ViewSettings(size=32, crop="padded", pad=3, mean=(0.4, 0.5, 0.3), std=(0.2, 0.25, 0.3))

Open = Callable[..., ImageBackend]


@pytest.fixture(scope="module")
def decoder() -> DaliDecoder:
    shape = DaliShape(max_batch=16, views=2, size=28, depth=3)
    return DaliDecoder(shape, DaliSettings(), threads=2, device=CPU)


@pytest.fixture(params=["dali", "split"])
def staged(request: pytest.FixtureRequest, decoder: DaliDecoder, pool: ThreadPool) -> Open:
    """A maker of backends that decode with DALI, alone or in two parts of 5 and 11 of 16 images."""

    def make(beton: BetonFile, view: ViewSettings = VIEW, *, shared: DaliDecoder = decoder) -> ImageBackend:
        feed = DaliViews(beton, view, shared, pool)
        split = SplitViews(feed, DaliViews(beton, view, shared, pool), 0.3)
        return StagedImages(split if request.param == "split" else feed, CpuMixStage(view, pool))

    return make


def _loader(
    beton: BetonFile, images: ImageBackend, view: ViewSettings = VIEW, **changes: Any
) -> PairedLoader:
    values: dict[str, Any] = {"seed": 6, "epochs": 2, "global_batch": 8, "prefetch": 2} | changes
    settings = LoaderSettings(view=view, device=CPU, **values)
    mix = MixSettings(beta=0.7, scope="sample")
    return PairedLoader(beton, settings, RankSlice(0, 1), images, q=1.5, mix=mix)


def _levels(images: torch.Tensor) -> np.ndarray:
    """(n, H, W, 3) float64, of 255, of normalised images (n, 3, H, W)."""
    return (images.permute(0, 2, 3, 1).double().numpy() * VIEW.std + VIEW.mean) * 255


def _difference(a: Batch, b: Batch) -> float:
    """Largest, in levels, where all else is equal."""
    for name in ("label_a", "label_b", "lam"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.images.is_contiguous(memory_format=torch.channels_last)
    return float(np.abs(_levels(a.images) - _levels(b.images)).max())


@pytest.mark.parametrize(("augment", "levels"), [("none", 1), ("jitter-gray-blur", 5)])
def test_the_pictures_are_the_references(
    photographs: BetonFile, photograph_files: list[Path], staged: Open, augment: str, levels: int
) -> None:
    view = dataclasses.replace(VIEW, augment=augment)  # type: ignore[arg-type]
    loader = _loader(photographs, staged(photographs, view), view)

    def slow_views(how: ViewDraws) -> torch.Tensor:
        samples = [np.fromfile(photograph_files[i], np.uint8) for i in how.indices]
        views = decode_reference.decode(samples, how.crops.astype(np.float64), how.flips, 28)
        if augment != "none":
            views = np.stack([augment_reference.augment(views[v], how.colours[v]) for v in range(2)])
        return torch.from_numpy(views)

    for step, batch in enumerate(loader.batches()):
        how_a, how_b, mixing = loader.draw_step(step)
        lam, boxes = torch.from_numpy(mixing.lam_mix), torch.from_numpy(mixing.cut_boxes)
        expected = mix_reference.mix(slow_views(how_a), slow_views(how_b), lam, boxes, VIEW.mean, VIEW.std)
        assert np.abs(_levels(batch.images) - _levels(expected)).max() <= levels + 1e-3


def test_the_pictures_are_those_of_the_cpu_decoder(
    photographs: BetonFile, staged: Open, pool: ThreadPool
) -> None:
    ours = _loader(photographs, staged(photographs)).batches()
    theirs = _loader(photographs, CpuImages(open_views(photographs, VIEW), VIEW, pool)).batches()
    assert len(ours) == len(theirs) == 6
    assert max(map(_difference, ours, theirs)) <= 2 + 1e-3


def test_plain_images_are_those_of_the_cpu_decoder(
    photographs: BetonFile, staged: Open, pool: ThreadPool
) -> None:
    settings = LoaderSettings(view=VIEW, seed=6, epochs=1, global_batch=8, prefetch=2, device=CPU)
    cpu = CpuImages(open_views(photographs, VIEW), VIEW, pool)
    ours, theirs = (
        PlainLoader(photographs, settings, RankSlice(0, 1), images).batches()
        for images in (staged(photographs), cpu)
    )
    assert max(map(_difference, ours, theirs)) <= 2 + 1e-3


def test_a_run_goes_on_with_the_batches_it_would_have_had(photographs: BetonFile, staged: Open) -> None:
    images = staged(photographs)
    whole = list(_loader(photographs, images).batches())
    for first in (0, 2, 3, 6):
        rest = list(_loader(photographs, images).batches(first))
        assert len(rest) == 6 - first
        assert all(_difference(a, b) == 0 for a, b in zip(rest, whole[first:], strict=True))


@pytest.mark.parametrize("depth", [1, 2])
def test_neither_dalis_queue_nor_look_ahead_change_a_batch(
    photographs: BetonFile, staged: Open, depth: int
) -> None:
    whole = list(_loader(photographs, staged(photographs)).batches())
    shape = DaliShape(max_batch=16, views=2, size=28, depth=depth)
    shared = DaliDecoder(shape, DaliSettings(), threads=1, device=CPU)
    for prefetch in (0, 3):
        again = _loader(photographs, staged(photographs, shared=shared), prefetch=prefetch).batches()
        assert all(_difference(a, b) == 0 for a, b in zip(again, whole, strict=True))


def test_batches_keep_their_pixels_while_others_are_made(photographs: BetonFile, staged: Open) -> None:
    images = staged(photographs)
    kept = []
    for batch in _loader(photographs, images).batches():
        kept.append((batch, batch.images.clone()))
    assert all(torch.equal(batch.images, copy) for batch, copy in kept)
    for batch, _ in kept:  # and what is done to a batch is done to no other
        batch.images.fill_(float("nan"))
    again = list(_loader(photographs, images).batches())
    assert all(torch.equal(batch.images, copy) for batch, (_, copy) in zip(again, kept, strict=True))


class Overwriting:
    """A feed whose views are overwritten the moment they are released."""

    def __init__(self, feed: ViewFeed) -> None:
        self.feed = feed
        self.crops = feed.crops
        self.released = 0

    def training(self, how: ViewDraws) -> Pending[Views]:
        return self.feed.training(how)

    def evaluation(self, indices: np.ndarray) -> Pending[Views]:
        return self.feed.evaluation(indices)

    def release(self, views: Views) -> None:
        self.released += 1
        for view in views:
            view.fill_(77)
        self.feed.release(views)


@pytest.mark.parametrize("augment", ["none", "jitter-gray-blur"])
def test_views_are_released_once_and_after_they_were_read(
    photographs: BetonFile, staged: Open, augment: str
) -> None:
    view = dataclasses.replace(VIEW, augment=augment)  # type: ignore[arg-type]
    images = staged(photographs, view)
    assert isinstance(images, StagedImages)
    feed = Overwriting(images.feed)
    settings = LoaderSettings(view=view, seed=6, epochs=1, global_batch=8, prefetch=2, device=CPU)

    def images_of(made: ImageBackend) -> list[torch.Tensor]:
        paired = _loader(photographs, made, view).batches()
        plain = PlainLoader(photographs, settings, RankSlice(0, 1), made).batches()
        evaluated = EvalLoader(photographs, view, RankSlice(0, 1), made, local_batch=6, device=CPU)
        return [batch.images for loader in (paired, plain, evaluated) for batch in loader]

    ours = images_of(StagedImages(feed, images.stage))
    assert feed.released == len(ours) == 6 + 3 + 4
    assert all(map(torch.equal, ours, images_of(images)))


def test_nothing_is_copied_between_dali_and_the_mix(
    photographs: BetonFile, decoder: DaliDecoder, pool: ThreadPool
) -> None:
    """PyTorch is asked for no copy; where two decoders split a batch, one joins it."""
    alone = DaliViews(photographs, VIEW, decoder, pool)
    seen = []
    for feed in (alone, SplitViews(alone, alone, 0.3)):
        loader = _loader(photographs, StagedImages(feed, CpuMixStage(VIEW, pool)))
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            list(loader.batches())
        operators = {event.key for event in profiler.key_averages()}
        seen.append(operators & {"aten::cat", "aten::stack", "aten::copy_", "aten::clone"})
    assert seen == [set(), {"aten::cat"}]


def test_evaluation_is_torchvisions_also_in_the_middle_of_training(
    photographs: BetonFile, photograph_files: list[Path], staged: Open
) -> None:
    images = staged(photographs)
    whole = list(_loader(photographs, images).batches())
    training = iter(_loader(photographs, images).batches())
    seen = [next(training)]  # the next batches are on their way through the pipeline that evaluates
    evaluation = EvalLoader(photographs, VIEW, RankSlice(0, 1), images, local_batch=6, device=CPU)
    shown = np.concatenate([_levels(batch.images) for batch in evaluation])[:23]
    seen += list(training)
    assert all(_difference(a, b) == 0 for a, b in zip(seen, whole, strict=True))
    for file, image in zip(photograph_files, shown, strict=True):
        with Image.open(file) as source:
            expected = np.asarray(TF.center_crop(TF.resize(source, 33), [28, 28]))
        assert np.abs(image - expected).max() <= 1 + 1e-3


def _resident_memory() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("backend", ["cpu", "dali"])
def test_leaving_early_leaks_neither_threads_nor_memory(
    photographs: BetonFile, decoder: DaliDecoder, pool: ThreadPool, backend: str
) -> None:
    if backend == "cpu":
        images: ImageBackend = CpuImages(open_views(photographs, VIEW), VIEW, pool)
    else:
        images = StagedImages(DaliViews(photographs, VIEW, decoder, pool), CpuMixStage(VIEW, pool))

    def leave_early(times: int) -> None:
        loader = _loader(photographs, images)
        for _ in range(times):
            for _ in loader.batches():
                break
            assert not decoder.scheduled

    leave_early(20)
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    tasks, memory = len(list(Path("/proc/self/task").iterdir())), _resident_memory()
    leave_early(100)
    assert set(threading.enumerate()) <= threads
    assert len(list(Path("/proc/self/task").iterdir())) <= tasks  # DALI's own threads are not Python's
    assert len(os.listdir("/proc/self/fd")) <= files  # noqa: PTH208
    # a batch of views and images is 0.9 MB, and 300 were begun
    assert _resident_memory() - memory < 30e6


def test_a_bad_image_ends_the_run_with_its_name(
    photographs: BetonFile,
    break_off: Callable[[BetonFile, int, Path], BetonFile],
    staged: Open,
    tmp_path: Path,
) -> None:
    beton = break_off(photographs, 20, tmp_path / "damaged.beton")
    message = (
        rf"{re.escape(str(tmp_path))}/damaged\.beton: image 20 \(00020\.jpg\) is .*"
        "convert the set again from a sound copy"
    )
    images = staged(beton)
    with pytest.raises(UserError, match=message):
        list(_loader(beton, images).batches())
    with pytest.raises(UserError, match=message):
        list(EvalLoader(beton, VIEW, RankSlice(0, 1), images, local_batch=6, device=CPU))
    assert len(list(_loader(photographs, staged(photographs)).batches())) == 6  # the pipeline is still good


class Fetched(PreadFile):
    """A file that notes which threads read it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.readers: set[str] = set()

    def read(self, start: int, length: int) -> np.ndarray:
        self.readers.add(threading.current_thread().name)
        return super().read(start, length)


def test_bytes_that_must_be_fetched_are_so_by_the_pool(
    photographs: BetonFile, staged: Open, pool: ThreadPool
) -> None:
    file = Fetched(photographs.path)
    remote = dataclasses.replace(photographs, images_by_pread=file)
    whole = list(_loader(photographs, staged(photographs)).batches())
    for prefetch in (0, 2):
        batches = _loader(remote, staged(remote), prefetch=prefetch).batches()
        assert all(_difference(a, b) == 0 for a, b in zip(batches, whole, strict=True))
    assert file.readers and all(name.startswith("fasttail") for name in file.readers)


def test_dali_has_the_fetched_bytes_of_coming_batches_ahead(
    photographs: BetonFile, decoder: DaliDecoder
) -> None:
    remote = dataclasses.replace(photographs, images_by_pread=PreadFile(photographs.path))
    with ThreadPool(1) as one:
        images = StagedImages(DaliViews(remote, VIEW, decoder, one), CpuMixStage(VIEW, one))
        batches = iter(_loader(remote, images).batches())
        next(batches)
        one.submit(int).result()  # the bytes of batches 1 and 2 are there, and the mix is done
        next(batches)
        assert len(decoder.scheduled) >= 1  # batch 2, and maybe 3; neither has been asked for
        again = iter(_loader(remote, images).batches())  # another loop over the set, while this one waits
        assert torch.equal(next(again).images, next(iter(_loader(photographs, images).batches())).images)
        for each in (batches, again):
            each.close()  # type: ignore[attr-defined]
        assert not decoder.scheduled and not images.feed.not_given  # type: ignore[attr-defined]


def test_bytes_that_cannot_be_fetched_end_the_run_and_leave_nothing(
    photographs: BetonFile, staged: Open, decoder: DaliDecoder, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    short.write_bytes(photographs.path.read_bytes()[: int(np.sort(photographs.offsets)[12])])
    remote = dataclasses.replace(photographs, images_by_pread=PreadFile(short))
    for _ in range(2):
        with pytest.raises(UserError, match=r"short: has ended before byte"):
            list(_loader(remote, staged(remote)).batches())
        assert not decoder.scheduled
    assert len(list(_loader(photographs, staged(photographs)).batches())) == 6


def test_what_only_dali_cannot_decode_is_named_by_its_sample(
    photographs: BetonFile, decoder: DaliDecoder, pool: ThreadPool
) -> None:
    feed = DaliViews(photographs, VIEW, decoder, pool)
    indices = np.array([7, 3, 11])
    error = feed.name_bad_image(indices, "Critical error: Failed to decode sample #2 : what not")
    assert "image 11 (00011.jpg) is not a JPEG that DALI can decode" in str(error)
    error = feed.name_bad_image(indices, "Out of\nmemory")
    assert "photographs.beton: DALI cannot make a batch of it: Out of memory" in str(error)


def test_dali_refuses_raw_images(digits: BetonFile, decoder: DaliDecoder, pool: ThreadPool) -> None:
    n = digits.num_images
    with pytest.raises(UserError, match=rf"{n:,} of its {n:,} images are raw pixels.*data\.decode to cpu"):
        DaliViews(digits, VIEW, decoder, pool)


def test_gathered_views_of_a_small_set_are_those_of_the_cpu(digits: BetonFile, pool: ThreadPool) -> None:
    source = open_views(digits, DIGITS)
    assert isinstance(source, ResidentViews)
    images = StagedImages(ResidentDeviceViews(source, CPU), CpuMixStage(DIGITS, pool))
    cpu = CpuImages(source, DIGITS, pool)
    ours, theirs = (
        list(_loader(digits, each, DIGITS, epochs=1, global_batch=150).batches()) for each in (images, cpu)
    )
    assert len(ours) == len(theirs) > 2
    assert all(torch.equal(a.images, b.images) for a, b in zip(ours, theirs, strict=True))
    evaluated = [
        list(EvalLoader(digits, DIGITS, RankSlice(0, 1), each, local_batch=70, device=CPU))
        for each in (images, cpu)
    ]
    assert all(torch.equal(a.images, b.images) for a, b in zip(*evaluated, strict=True))


def test_coming_batches_are_asked_for(
    photographs: BetonFile, pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert Path(f"/proc/self/fd/{descriptor}").resolve() == photographs.path.resolve()
        assert advice == os.POSIX_FADV_WILLNEED
        asked.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    loader = _loader(photographs, CpuImages(open_views(photographs, VIEW), VIEW, pool), epochs=5)
    shown: list[list[tuple[int, int]]] = []
    for step in range(loader.total_steps):
        how_a, how_b, _ = loader.draw_step(step)
        indices = np.concatenate([how_a.indices, how_b.indices])
        offsets, sizes = photographs.offsets[indices], photographs.sizes[indices]
        shown.append(list(zip(offsets.tolist(), sizes.tolist(), strict=True)))
    batches: Iterator[Batch] = iter(loader.batches())
    next(batches)
    assert asked == shown[8] + shown[9] + shown[10]  # the first batch and two prepared ahead
    list(batches)
    assert asked == [each for step in shown[8:] for each in step]
