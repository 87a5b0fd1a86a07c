"""`decode` with DALI, on a GPU or on DALI's CPU operators: each source image decoded once, cut V times.

The pipeline of dali_graph.py is driven directly: bytes and boxes are fed, an iteration is scheduled, and its outputs
are taken later, in order, as tensors that own DALI's buffers (DLPack). decode_reference.py says what `decode` means.
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
from pipelines.dali_graph import DaliSettings, DaliShape, build_pipeline
from pipelines.views import Views


@dataclass(eq=False)
class Ticket:
    """A batch that DALI was given: one decode of n images."""

    views: int
    """Crops that were asked for, at most the pipeline's V."""
    made: Views | None = None
    """Those crops, once the batch is taken from DALI's queue."""
    error: RuntimeError | None = None
    """Why there are none."""
    fed: list[Any] = field(default_factory=list)
    """Memory that DALI reads until the batch is taken."""


class DaliDecoder:
    """One pipeline, in which batches keep their order. All calls come from one thread and one stream of PyTorch's."""

    def __init__(
        self, shape: DaliShape, settings: DaliSettings, *, threads: int, device: torch.device
    ) -> None:
        self.shape = shape
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.scheduled: deque[Ticket] = deque()
        self.in_use: deque[tuple[torch.cuda.Event, Views]] = deque()
        """On a GPU: batches released, in order, and when their readers are done."""
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
        """Give DALI a batch and return at once, or when the oldest of `depth` others is made; on a GPU also when all
        but `depth` of those released have been read.

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

    def take(self, ticket: Ticket) -> Views:
        """Return the (n, S, S, 3) uint8 of each view of a batch; with a GPU, ordered on PyTorch's current stream.

        The tensors own their memory and may be written to. On a GPU call `release` when all that reads them is on that
        stream.

        Raises:
            RuntimeError: DALI could not decode the batch.
        """
        while ticket.made is None and ticket.error is None:
            self._collect()
        if ticket.error is not None:
            raise ticket.error
        views, ticket.made = ticket.made, None
        assert views is not None
        return views

    def discard(self, ticket: Ticket) -> None:
        """Wait until DALI is done with a batch that nobody wants any more."""
        while ticket in self.scheduled:
            self._collect()
        ticket.made = None

    def release(self, views: Views) -> None:
        """Let DALI have the memory back once the work on PyTorch's current stream is done.

        DALI would reuse it in the order of its own stream, which does not wait for PyTorch's.
        """
        if not self.on_gpu:
            return
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        self.in_use.append((event, views))

    def _schedule(self, samples: list[NDArray[np.uint8]], views: list[CropWindows]) -> Ticket:
        if len(self.scheduled) == self.shape.depth:
            self._collect()
        self._return_memory()
        ticket = self._feed(samples, views)
        self.pipeline.schedule_run()
        self.scheduled.append(ticket)
        return ticket

    def _feed(self, samples: list[NDArray[np.uint8]], views: list[CropWindows]) -> Ticket:
        self.pipeline.feed_input("jpegs", samples)
        for v in range(self.shape.views):
            # A pipeline for two views that is asked for one makes that one twice: decoding is what costs.
            # The graph calls its inputs as CropWindows its fields.
            for name, values in vars(views[min(v, len(views) - 1)]).items():
                self.pipeline.feed_input(f"{name}_{v}", np.ascontiguousarray(values))
        return Ticket(len(views), fed=samples)

    def _return_memory(self) -> None:
        """Let DALI have the memory of batches whose readers are done; of the oldest, wait for them if need be.

        DALI takes new memory for what it makes meanwhile, and the host may be any number of steps ahead of the device.
        It waits, asleep, where more than `depth` released batches are still to be read: the device has as many steps
        to do then, `depth` more batches are decoded or under way, and none of it needs the host.
        """
        while self.in_use:
            done, _ = self.in_use[0]
            if not done.query() and len(self.in_use) <= self.shape.depth:
                return
            done.synchronize()
            self.in_use.popleft()

    def _collect(self) -> None:
        """Wait for the oldest batch."""
        ticket = self.scheduled.popleft()
        stream = torch.cuda.current_stream(self.device) if self.on_gpu else None
        try:
            outputs = self.pipeline.share_outputs(stream)[: ticket.views]
            ticket.made = [from_dlpack(output.as_tensor()) for output in outputs]
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
