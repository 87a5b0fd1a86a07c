"""`decode` with DALI, on a GPU or on DALI's CPU operators: one graph, whose only difference is `device`.

Each source image is decoded once and whole (the decoders that read a region crash in nvImageCodec 0.9), then each
of its views is cut out, framed and resized as crop_windows.py says. The pipeline is driven directly: bytes and
boxes are fed, an iteration is scheduled, and its outputs are taken later, in order, as tensors that own DALI's
buffers (DLPack). decode_reference.py says what the operation means.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.dlpack import from_dlpack

from pipelines.crop_windows import CropWindows, crop_windows
from pipelines.user_error import UserError

Frames = list[torch.Tensor]
"""Of each view (n, S, S, 3) uint8."""


@dataclass(frozen=True, kw_only=True)
class DaliSettings:
    """How DALI decodes; nothing of it changes which pictures are shown."""

    threads: int = 0
    """Threads of DALI, which parse JPEGs and decode Huffman codes. 0: as many as data.threads."""
    hardware_share: float = 0.65
    """Share of the JPEGs that go to the GPU's hardware decoder (A100, H100, H200), in [0, 1]; DALI's default."""
    huffman_threshold: int = 1_000_000
    """Pixels from which the GPU and no longer the host decodes an image's Huffman codes; DALI's default."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise UserError(f"dali.threads is {self.threads}: it must be 0 (automatic) or more")
        if not 0 <= self.hardware_share <= 1:
            raise UserError(f"dali.hardware_share is {self.hardware_share}: a share lies in [0, 1]")
        if self.huffman_threshold < 0:
            raise UserError(
                f"dali.huffman_threshold is {self.huffman_threshold}: it must be 0 or more pixels"
            )


@dataclass(frozen=True, kw_only=True)
class DaliShape:
    """What a pipeline is built for."""

    max_batch: int
    """Source images of the largest batch."""
    views: int
    """V, crops of each source image."""
    size: int
    """S, pixels of a view's side."""
    depth: int
    """Batches that may be on their way at once (DALI's prefetch_queue_depth)."""


@dataclass(eq=False)
class Ticket:
    """A batch that DALI was given: one decode of n images."""

    views: int
    """Crops that were asked for, at most the pipeline's V."""
    frames: Frames | None = None
    """Its views, once it is taken from DALI's queue."""
    error: RuntimeError | None = None
    """Why there are none."""
    fed: list[Any] = field(default_factory=list)
    """Memory that DALI reads until the batch is taken."""


class DaliDecoder:
    """One pipeline. Batches come back in the order in which they were scheduled; all calls from one thread."""

    def __init__(
        self, shape: DaliShape, settings: DaliSettings, *, threads: int, device: torch.device
    ) -> None:
        self.shape = shape
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.scheduled: deque[Ticket] = deque()
        self.in_use: deque[tuple[torch.cuda.Event, Frames]] = deque()
        self.pipeline: Any = build_pipeline(shape, settings, settings.threads or threads, device)
        self._warm_up()

    def schedule(
        self,
        samples: Sequence[NDArray[np.uint8]],
        boxes: NDArray[np.float64],
        flips: NDArray[np.bool_],
        image_sizes: NDArray[np.integer],
        *,
        crop_first: bool,
    ) -> Ticket:
        """Give DALI a batch and return at once, or when the oldest of `depth` others is done.

        Args:
            samples: bytes of n JPEGs, (bytes,) uint8 each. They are not copied: what they are views of, say a
                mapped file, must outlive the decoder.
            boxes: (n, V', 4) as for `decode_reference.decode`, V' up to V.
            flips: (n, V').
            image_sizes: (n, 2) rows and columns of each source image.
            crop_first: as for `decode_reference.decode`.

        Raises:
            ValueError: a box does not fit its image.
        """
        views = [
            crop_windows(boxes[:, v], flips[:, v], image_sizes, self.shape.size, crop_first=crop_first)
            for v in range(boxes.shape[1])
        ]
        return self._schedule(list(samples), views)

    def take(self, ticket: Ticket) -> Frames:
        """Return the (n, S, S, 3) uint8 of each view of a batch; with a GPU, ordered on PyTorch's current stream.

        The tensors own their memory. On a GPU call `release` when all that reads them is on that stream.

        Raises:
            RuntimeError: DALI could not decode the batch.
        """
        while ticket.frames is None and ticket.error is None:
            self._collect()
        if ticket.error is not None:
            raise ticket.error
        frames, ticket.frames = ticket.frames, None
        assert frames is not None
        return frames

    def discard(self, ticket: Ticket) -> None:
        """Wait until DALI is done with a batch that nobody wants any more."""
        while ticket in self.scheduled:
            self._collect()
        ticket.frames = None

    def release(self, frames: Frames) -> None:
        """Let DALI have the memory back once the work on PyTorch's current stream is done.

        DALI would reuse it in the order of its own stream, which does not wait for PyTorch's.
        """
        if not self.on_gpu:
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        self.in_use.append((event, frames))
        while self.in_use and self.in_use[0][0].query():
            self.in_use.popleft()

    def _schedule(self, samples: list[NDArray[np.uint8]], views: list[CropWindows]) -> Ticket:
        if len(self.scheduled) == self.shape.depth:
            self._collect()
        ticket = self._feed(samples, views)
        self.pipeline.schedule_run()
        self.scheduled.append(ticket)
        return ticket

    def _feed(self, samples: list[NDArray[np.uint8]], views: list[CropWindows]) -> Ticket:
        self.pipeline.feed_input("jpegs", samples)
        for v in range(self.shape.views):
            # a pipeline for two views that is asked for one makes that one twice: decoding is what costs
            for name, values in vars(views[min(v, len(views) - 1)]).items():
                self.pipeline.feed_input(f"{name}_{v}", np.ascontiguousarray(values))
        return Ticket(len(views), fed=samples)

    def _collect(self) -> None:
        """Wait for the oldest batch."""
        ticket = self.scheduled.popleft()
        stream = torch.cuda.current_stream(self.device) if self.on_gpu else None
        try:
            outputs = self.pipeline.share_outputs(stream)[: ticket.views]
            ticket.frames = [from_dlpack(output.as_tensor()) for output in outputs]
            self.pipeline.release_outputs()
        except RuntimeError as error:
            ticket.error = error
        ticket.fed.clear()

    def _warm_up(self) -> None:
        """Run `depth` batches of one tiny image: DALI's first `schedule_run` starts that many at once."""
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG")
        sample = np.frombuffer(file.getvalue(), np.uint8)
        box, size = np.array([[0.0, 0, 16, 16]]), np.array([[16, 16]])
        window = crop_windows(box, np.array([False]), size, self.shape.size, crop_first=True)
        tickets = [self._feed([sample], [window]) for _ in range(self.shape.depth)]
        self.pipeline.schedule_run()
        self.scheduled.extend(tickets)
        for ticket in tickets:
            self.take(ticket)


def build_pipeline(shape: DaliShape, settings: DaliSettings, threads: int, device: torch.device) -> Any:
    """Build the graph: JPEGs and windows in, of each view a (S, S, 3) uint8 image out.

    Raises:
        UserError: DALI is not installed, or cannot use the device.
    """
    dali = _import_dali()
    on_gpu = device.type == "cuda"
    pipeline = dali.Pipeline(
        batch_size=shape.max_batch,
        num_threads=threads,
        device_id=(device.index or 0) if on_gpu else None,
        prefetch_queue_depth=shape.depth,
    )
    with pipeline:
        fn, types = dali.fn, dali.types
        images = fn.decoders.image(
            fn.external_source(name="jpegs", batch=True, no_copy=True, dtype=types.UINT8, ndim=1),
            device="mixed" if on_gpu else "cpu",
            output_type=types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
            affine=False,  # several processes on a machine would tie their threads to the same cores
            hw_decoder_load=settings.hardware_share,
            hybrid_huffman_threshold=settings.huffman_threshold,
        )
        pipeline.set_outputs(*(_view(dali, images, v, shape.size) for v in range(shape.views)))
    try:
        pipeline.build()
    except RuntimeError as error:
        raise UserError(
            f"DALI cannot decode on {device} ({str(error).splitlines()[0]}); check the driver, or set "
            "data.decode to cpu"
        ) from error
    return pipeline


def _view(dali: Any, images: Any, v: int, size: int) -> Any:
    """The graph of view v: cut out, frame with zeros, resize and mirror, divide by the weight on true pixels."""
    fn, types = dali.fn, dali.types

    def window(name: str, dtype: Any, ndim: int) -> Any:
        return fn.external_source(name=f"{name}_{v}", batch=True, dtype=dtype, ndim=ndim)

    counted = fn.slice(images, window("corner", types.INT32, 1), window("shape", types.INT32, 1), axes=[0, 1])
    framed = fn.slice(
        counted,
        window("frame_corner", types.INT32, 1),
        window("framed_shape", types.INT32, 1),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )
    resized = fn.resize(
        framed,
        size=[size, size],
        roi_start=window("roi_start", types.FLOAT, 1),
        roi_end=window("roi_end", types.FLOAT, 1),
        interp_type=types.INTERP_LINEAR,
        antialias=True,
        dtype=types.FLOAT,
    )
    rows, columns = window("row_gains", types.FLOAT, 3), window("column_gains", types.FLOAT, 3)
    if images.device == "gpu":
        rows, columns = rows.gpu(), columns.gpu()
    return fn.cast(resized * (rows * columns), dtype=types.UINT8)


def _import_dali() -> Any:
    """The module nvidia.dali, imported when it is wanted: it takes 0.8 s."""
    try:
        import nvidia.dali
        import nvidia.dali.fn
        import nvidia.dali.types
    except ImportError as error:
        raise UserError(
            f"DALI cannot be imported ({error}); install nvidia-dali-cuda120, or set data.decode to cpu"
        ) from error
    return nvidia.dali
