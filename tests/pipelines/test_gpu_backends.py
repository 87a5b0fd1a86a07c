"""What a GPU adds: the second stage by kernels (interpreted here), and, marked gpu, decoding, copies and streams."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.batch import Batch, EvalBatch
from pipelines.beton.reader import BetonFile
from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.decode_dali import DaliDecoder
from pipelines.decode_reference import decode
from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewSettings
from pipelines.eval_boxes import resize_center_crop_boxes
from pipelines.eval_loader import EvalLoader
from pipelines.images_cpu import CpuImages
from pipelines.open_images import ImageWorks, open_image_works, parse_decode
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader
from pipelines.user_error import UserError
from pipelines.view_sources import open_views

INTERPRETED = """
import sys
import torch
from pipelines.beton.reader import open_beton
from pipelines.dali_views import DaliViews
from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.decode_dali import DaliDecoder
from pipelines.images_cpu import CpuImages
from pipelines.resident.gpu_images import ResidentImagesOnGpu
from pipelines.images_staged import StagedImages
from pipelines.mix_stage_cpu import CpuMixStage
from pipelines.mix_stage_gpu import GpuMixStage
from pipelines.draws.mixing import MixSettings
from pipelines.rank_slice import RankSlice
from pipelines.eval_loader import EvalLoader
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader, PlainLoader
from pipelines.user_error import UserError
from pipelines.draws.views import ViewSettings
from pipelines.view_sources import open_views

photographs, digits = (open_beton(path) for path in sys.argv[1:3])
cpu = torch.device("cpu")

def compare(beton, view, ours, theirs, tolerance):
    settings = LoaderSettings(view=view, seed=6, epochs=1, global_batch=5, prefetch=1, device=cpu)
    ranks, mix = RankSlice(0, 1), MixSettings(scope="sample")
    for make in (
        lambda images: PairedLoader(beton, settings, ranks, images, q=1.0, mix=mix).batches(),
        lambda images: PlainLoader(beton, settings, ranks, images).batches(),
        lambda images: EvalLoader(beton, view, ranks, images, local_batch=4, device=cpu),
    ):
        for _, a, b in zip(range(2), make(ours), make(theirs)):
            assert a.images.shape == b.images.shape
            assert a.images.is_contiguous(memory_format=torch.channels_last)
            assert (a.images - b.images).abs().max() <= tolerance, (a.images - b.images).abs().max()

with ThreadPool(1) as pool:
    for augment in ("none", "jitter-gray-blur"):
        view = ViewSettings(size=12, eval_resize=13, augment=augment)
        shape = DaliShape(max_batch=10, views=2, size=12, depth=2)
        decoder = DaliDecoder(shape, DaliSettings(), threads=1, device=cpu)
        feed = DaliViews(photographs, view, decoder, pool)
        kernels = StagedImages(feed, GpuMixStage(view, cpu, torch.float32))
        compare(photographs, view, kernels, StagedImages(feed, CpuMixStage(view, pool)), 1e-5)
    view = ViewSettings(size=32, crop="padded", pad=3)
    source = open_views(digits, view)
    resident = ResidentImagesOnGpu(source, view, cpu, torch.float32)
    compare(digits, view, resident, CpuImages(source, view, pool), 1e-5)
print("the same")
"""


def test_the_kernels_make_the_batches_of_the_cpu_loops(photographs: BetonFile, digits: BetonFile) -> None:
    command = [sys.executable, "-W", "error", "-c", INTERPRETED, str(photographs.path), str(digits.path)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


VIEW = ViewSettings(size=64, eval_resize=70)
GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
DECODERS = ["dali-gpu", "cpu", "split:0.4"]


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPool]:
    with ThreadPool(4) as pool:
        yield pool


@pytest.fixture(scope="module")
def open_loader(photographs: BetonFile, threads: ThreadPool) -> Callable[..., PairedLoader]:
    """A maker of loaders of 8 pairs for the GPU; it also opens `loader.images` for an `EvalLoader`."""

    def make(
        by: str,
        dtype: torch.dtype = torch.float32,
        dali: DaliSettings | None = None,
        **changes: Any,
    ) -> PairedLoader:
        return _loader(photographs, _works(threads, by, dtype, dali).open(photographs), GPU, **changes)

    return make


def _works(
    threads: ThreadPool, by: str, dtype: torch.dtype = torch.float32, dali: DaliSettings | None = None
) -> ImageWorks:
    return open_image_works(
        VIEW,
        threads,
        decode=parse_decode(by),
        dali=dali or DaliSettings(),
        device=GPU,
        dtype=dtype,
        batch=DaliShape(max_batch=16, views=2, size=64, depth=3),
    )


def _loader(beton: BetonFile, images: Any, device: torch.device, **changes: Any) -> PairedLoader:
    values: dict[str, Any] = {"seed": 6, "epochs": 4, "global_batch": 8, "prefetch": 2} | changes
    settings = LoaderSettings(view=VIEW, device=device, **values)
    return PairedLoader(beton, settings, RankSlice(0, 1), images, q=1.5, mix=MixSettings(scope="sample"))


@pytest.fixture(scope="module")
def expected(photographs: BetonFile, threads: ThreadPool) -> list[Batch]:
    """The batches of the CPU."""
    images = CpuImages(open_views(photographs, VIEW), VIEW, threads)
    return list(_loader(photographs, images, CPU).batches())


def _levels(batch: Batch | EvalBatch, expected: Batch | EvalBatch) -> np.ndarray:
    """Differences of the images in levels; all else is equal."""
    assert batch.images.device.type == "cuda"
    for name in {each.name for each in fields(batch)} - {"images"}:
        assert torch.equal(getattr(batch, name).cpu(), getattr(expected, name))
    difference = (batch.images.float().cpu() - expected.images).abs().permute(0, 2, 3, 1).numpy()
    return difference * np.array(VIEW.std) * 255


def _assert_nvjpegs(levels: np.ndarray, rounding: float = 0) -> None:
    """These differences may come from the JPEG decoder, and from rounding of so many levels.

    Views of these photographs, cut and resized like these but decoded with libjpeg-turbo's own two shortcuts (fast DCT
    and fast upsampling), were 1.1 levels off on average, 6 at the 99th percentile and 25 at most; cut one pixel beside,
    6, 64 and 171. Allowed is twice the former.
    """
    assert levels.mean() <= 2.2 + rounding
    assert np.percentile(levels, 99) <= 12 + rounding
    assert levels.max() <= 50 + rounding


@pytest.mark.gpu
@pytest.mark.parametrize("by", DECODERS)
def test_batches_are_those_of_the_cpu(
    open_loader: Callable[..., PairedLoader], expected: list[Batch], by: str
) -> None:
    """The threads' pixels exactly; nvJPEG's nearly."""
    batches = list(open_loader(by).batches())
    assert len(batches) == len(expected) == 12
    for batch, other in zip(batches, expected, strict=True):
        difference = _levels(batch, other)
        if by == "cpu":
            assert difference.max() <= 1e-2
        _assert_nvjpegs(difference)


@pytest.mark.gpu
def test_the_resize_is_within_one_level_on_the_same_decoded_pixels(
    make_photographs: Callable[..., list[Path]], tmp_path: Path
) -> None:
    files = make_photographs(tmp_path / "squares", 9, shortest=64, longest=64)
    samples = [np.fromfile(file, np.uint8) for file in files]
    sizes, whole = np.full((9, 2), 64), np.tile([0.0, 0, 64, 64], (9, 1, 1))
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 30, (9, 2, 2))
    boxes = np.concatenate([corners, corners + rng.integers(2, 35, (9, 2, 2))], axis=2).astype(float)
    flips = rng.random((9, 2)) < 0.5

    def views(size: int, boxes: np.ndarray, flips: np.ndarray, *, crop_first: bool = True) -> np.ndarray:
        # all on one engine: which decoder an image is given to changes its pixels
        shape = DaliShape(max_batch=9, views=boxes.shape[1], size=size, depth=2)
        decoder = DaliDecoder(shape, DaliSettings(hardware_share=0), threads=2, device=GPU)
        ticket = decoder.schedule(samples, boxes, flips, sizes, crop_first=crop_first)
        return torch.stack(list(decoder.take(ticket))).cpu().numpy()

    pixels = list(views(64, whole, np.zeros((9, 1), bool))[0])
    for size in (13, 40):
        middle = resize_center_crop_boxes(sizes[:, 0], sizes[:, 1], size + 3, size)[:, None]
        no_flips = np.zeros((9, 1), bool)
        for where, mirrored, crop_first in (
            (boxes, flips, True),
            (boxes * 0.75 + 0.125, flips, False),
            (middle, no_flips, False),
        ):
            expected = decode(pixels, where, mirrored, size, crop_first=crop_first)
            ours = views(size, where, mirrored, crop_first=crop_first)
            assert ours.shape == expected.shape
            assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("by", DECODERS)
def test_memory_is_not_written_while_a_busy_stream_still_reads_it(
    open_loader: Callable[..., PairedLoader], by: str
) -> None:
    """PyTorch's stream is behind by many batches, on a stream of its own, and every picture is still right."""
    one_engine = DaliSettings(
        hardware_share=0
    )  # else chance decides which one decodes an image, and a few pixels
    quiet = list(open_loader(by, dali=one_engine).batches())
    stream = torch.cuda.Stream(GPU)
    with torch.cuda.stream(stream):
        busy = []
        for batch in open_loader(by, dali=one_engine, prefetch=3).batches():
            torch.cuda._sleep(20_000_000)
            busy.append(batch)
    stream.synchronize()
    assert all(torch.equal(a.images, b.images) for a, b in zip(quiet, busy, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("by", ["dali-gpu", "cpu"])
def test_views_are_mixed_where_the_decoder_left_them(
    open_loader: Callable[..., PairedLoader], by: str
) -> None:
    """PyTorch makes no room for them on the device, only for the images and what else is in a batch."""
    batches = iter(open_loader(by).batches())
    for _ in range(4):
        next(batches)  # the ring of pinned memory is as long as it gets
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    images = next(batches).images
    room = torch.cuda.max_memory_allocated() - before - images.nbytes
    assert room < 2 * 16 * 64 * 64 * 3 // 4  # of the bytes of the views


@pytest.mark.gpu
@pytest.mark.parametrize("by", DECODERS)
def test_the_host_is_two_batches_more_than_prefetch_ahead_of_the_device_and_no_further(
    open_loader: Callable[..., PairedLoader], by: str
) -> None:
    """So many batches come while the device has not begun any of them; the next one when it has mixed the first."""
    prefetch = 2  # of three batches on their way in DALI, as a run sets it
    batches = iter(open_loader(by, prefetch=prefetch, epochs=8).batches())

    def get_ahead(cycles: int) -> tuple[float, bool, bool]:
        """Seconds that the batches took; whether the device was still behind then, and after one more."""
        assert next(batches).images.isfinite().all()  # the first compiles the kernels
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.cuda._sleep(cycles)
        awake = torch.cuda.Event()
        awake.record()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(prefetch + 2):
                next(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        seconds, behind = time.perf_counter() - start, not awake.query()
        next(batches)
        return seconds, behind, not awake.query()

    get_ahead(200_000_000)  # DALI takes the memory that it needs where the device is behind
    seconds, behind, still_behind = get_ahead(4_000_000_000)  # two seconds of a GPU of 2 GHz
    assert seconds < 1.5 and behind
    assert not still_behind


@pytest.mark.gpu
@pytest.mark.parametrize("by", DECODERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batches_have_the_trainers_dtype(
    open_loader: Callable[..., PairedLoader], expected: list[Batch], by: str, dtype: torch.dtype
) -> None:
    batch = next(iter(open_loader(by, dtype).batches()))
    assert batch.images.dtype == dtype and batch.images.is_contiguous(memory_format=torch.channels_last)
    # bfloat16 keeps 8 bits: 1/128 of a normalised value below 4, which is half a level
    _assert_nvjpegs(_levels(batch, expected[0]), rounding=0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("by", DECODERS)
def test_leaving_early_leaks_no_device_memory(photographs: BetonFile, threads: ThreadPool, by: str) -> None:
    """No batch's buffers are left behind: the views have 39 MB, the images 77 MB."""
    view, pairs = ViewSettings(size=224, eval_resize=256), 64
    works = open_image_works(
        view,
        threads,
        decode=parse_decode(by),
        dali=DaliSettings(),
        device=GPU,
        dtype=torch.float32,
        batch=DaliShape(max_batch=2 * pairs, views=2, size=224, depth=3),
    )
    settings = LoaderSettings(view=view, seed=6, epochs=4, global_batch=pairs, prefetch=2, device=GPU)
    mix, images = MixSettings(scope="sample"), works.open(photographs)
    loader = PairedLoader(photographs, settings, RankSlice(0, 1), images, q=1.5, mix=mix)

    def leave_early(times: int) -> None:
        for _ in range(times):
            for _ in loader.batches():
                break
        torch.cuda.synchronize()

    leave_early(20)
    allocated, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    leave_early(100)
    assert torch.cuda.memory_allocated() <= allocated + 1e6
    assert torch.cuda.mem_get_info()[0] >= free - 32e6


@pytest.mark.gpu
@pytest.mark.parametrize("by", DECODERS)
def test_evaluation_in_the_middle_of_training(
    photographs: BetonFile,
    threads: ThreadPool,
    open_loader: Callable[..., PairedLoader],
    expected: list[Batch],
    by: str,
) -> None:
    loader = open_loader(by)
    training = iter(loader.batches())
    seen = [next(training)]
    ours = EvalLoader(photographs, VIEW, RankSlice(0, 1), loader.images, local_batch=6, device=GPU)
    cpu = CpuImages(open_views(photographs, VIEW), VIEW, threads)
    theirs = EvalLoader(photographs, VIEW, RankSlice(0, 1), cpu, local_batch=6, device=CPU)
    for a, b in zip(ours, theirs, strict=True):
        _assert_nvjpegs(_levels(a, b))
    seen += list(training)
    for batch, other in zip(seen, expected, strict=True):
        _assert_nvjpegs(_levels(batch, other))


@pytest.mark.gpu
@pytest.mark.parametrize("by", DECODERS)
def test_a_bad_image_ends_the_run_with_its_name(
    photographs: BetonFile,
    break_off: Callable[[BetonFile, int, Path], BetonFile],
    threads: ThreadPool,
    tmp_path: Path,
    by: str,
) -> None:
    beton = break_off(photographs, 20, tmp_path / "damaged.beton")
    with beton.path.open("r+b") as file:  # no byte of the image is left
        file.seek(int(beton.offsets[20]))
        file.write(bytes(int(beton.sizes[20])))
    images = _works(threads, by).open(beton)
    with pytest.raises(UserError, match=r"damaged\.beton: image 20 \(00020\.jpg\) is "):
        list(_loader(beton, images, GPU).batches())
