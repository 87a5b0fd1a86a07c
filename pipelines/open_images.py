"""Which backend makes the images of a run: `data.decode` and the device -> an `ImageBackend` for each set.

On a GPU, DALI and the kernels are the default. What is missing for them stops the run, it is never replaced in silence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.beton.reader import BetonFile
from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.dali_views import DaliViews
from pipelines.decode_dali import DaliDecoder
from pipelines.draws.views import ViewSettings
from pipelines.image_backend import ImageBackend
from pipelines.images_cpu import CpuImages
from pipelines.images_staged import StagedImages, ViewFeed
from pipelines.mix_stage_cpu import CpuMixStage
from pipelines.pinned_views import PinnedViews
from pipelines.resident.device_views import ResidentDeviceViews
from pipelines.split_views import SplitViews
from pipelines.thread_pool import ThreadPool
from pipelines.user_error import UserError
from pipelines.view_sources import ResidentViews, ViewSource, open_views


@dataclass(frozen=True)
class Decode:
    """Who decodes: the setting `data.decode`, read."""

    by: str
    """auto, dali-gpu, dali-cpu, cpu or split."""
    share: float = 0.0
    """Of the source images that CPU threads decode, with split."""

    @property
    def uses_dali(self) -> bool:
        """Whether a DALI pipeline is needed."""
        return self.by in ("dali-gpu", "dali-cpu", "split")

    @property
    def text(self) -> str:
        """As the setting has it."""
        return f"{self.by}:{self.share:g}" if self.by == "split" else self.by


def parse_decode(text: str) -> Decode:
    """Read `auto`, `dali-gpu`, `dali-cpu`, `cpu` or `split:SHARE`; anything else is a `UserError`."""
    by, _, share = text.partition(":")
    if text in ("auto", "dali-gpu", "dali-cpu", "cpu"):
        return Decode(text)
    try:
        decode = Decode(by, float(share))
    except ValueError:
        decode = Decode("")
    if decode.by != "split" or not 0 < decode.share < 1:
        raise UserError(
            f"data.decode is {text}: it must be auto, dali-gpu, dali-cpu, cpu, or split:SHARE with a share in "
            "(0, 1) of the images that CPU threads decode"
        )
    return decode


def choose_decode(decode: Decode, device: torch.device, view: ViewSettings) -> Decode:
    """Resolve `auto`, and refuse what the device cannot do."""
    if view.crop == "padded":
        return Decode("cpu")  # sets in memory, which nobody decodes
    on_gpu = device.type == "cuda"
    if decode.by == "auto":
        return Decode("dali-gpu" if on_gpu else "cpu")
    if decode.by == "dali-cpu" and on_gpu:
        raise UserError(
            "data.decode dali-cpu is for run.device cpu; a GPU takes dali-gpu, cpu or split:SHARE"
        )
    if decode.by in ("dali-gpu", "split") and not on_gpu:
        raise UserError(
            f"data.decode {decode.by} needs a CUDA device, and the run is on the CPU; use cpu or dali-cpu"
        )
    return decode


@dataclass(frozen=True, kw_only=True)
class ImageWorks:
    """What all sets of a process share: threads, device, and one DALI pipeline."""

    view: ViewSettings
    decode: Decode
    device: torch.device
    dtype: torch.dtype
    """Of the images on a GPU; on a CPU they are float32."""
    pool: ThreadPool
    dali: DaliDecoder | None

    def open(self, beton: BetonFile) -> ImageBackend:
        """The images of one set."""
        source = open_views(beton, self.view)
        if self.device.type == "cuda":
            return self._open_on_gpu(beton, source)
        if self.dali is not None:
            feed = DaliViews(beton, self.view, self.dali, self.pool)
            return StagedImages(feed, CpuMixStage(self.view, self.pool))
        return CpuImages(source, self.view, self.pool)

    def _open_on_gpu(self, beton: BetonFile, source: ViewSource) -> ImageBackend:
        """The kernels are imported here: Triton comes with PyTorch's CUDA builds only."""
        try:
            from pipelines.mix_stage_gpu import GpuMixStage
            from pipelines.resident.gpu_images import ResidentImagesOnGpu
        except ImportError as error:
            raise UserError(
                f"the mix kernel cannot be imported ({error}); install PyTorch's CUDA build, which brings Triton"
            ) from error
        stage = GpuMixStage(self.view, self.device, self.dtype)
        if not isinstance(source, ResidentViews):
            return StagedImages(self._gpu_feed(beton, source), stage)
        if self.view.augment == "none":
            return ResidentImagesOnGpu(source, self.view, self.device, self.dtype)
        return StagedImages(ResidentDeviceViews(source, self.device), stage)

    def _gpu_feed(self, beton: BetonFile, source: ViewSource) -> ViewFeed:
        """Views of decoded images on a GPU."""
        by_dali = None if self.dali is None else DaliViews(beton, self.view, self.dali, self.pool)
        if by_dali is not None and self.decode.by == "dali-gpu":
            return by_dali
        by_threads = PinnedViews(source, self.view.size, self.pool, self.device)
        return by_threads if by_dali is None else SplitViews(by_threads, by_dali, self.decode.share)


def open_image_works(
    view: ViewSettings,
    pool: ThreadPool,
    *,
    decode: Decode,
    dali: DaliSettings,
    device: torch.device,
    dtype: torch.dtype,
    batch: DaliShape,
) -> ImageWorks:
    """Start what the sets of a process share.

    Raises:
        UserError: the device cannot do what `decode` asks, or DALI is wanted and not there.
    """
    decode = choose_decode(decode, device, view)
    decoder = None
    if decode.uses_dali:
        decoder = DaliDecoder(batch, dali, threads=pool.threads, device=device)
    return ImageWorks(view=view, decode=decode, device=device, dtype=dtype, pool=pool, dali=decoder)
