"""DALI's graph, on a GPU or on DALI's CPU operators: one function, whose only difference is `device`.

JPEGs are decoded once and whole (the decoders that read a region crash in nvImageCodec 0.9); then each view is cut
out, framed and resized as crop_windows.py says. decode_dali.py feeds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pipelines.user_error import UserError


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
