"""Logits of both heads, features and labels of every image of a set, in one safetensors file, in the set's order.

https://huggingface.co/docs/safetensors: eight bytes with the length of a JSON header, the header, the tensors'
bytes. The tensors' places are known before the first batch, so each batch goes where it belongs and no rank
ever holds more than a batch of each rank: iNaturalist's two heads alone are 1.6 GB. Nothing in the file is
executed when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pipelines.batch import EvalBatch
from pipelines.whole_file import partial_file, publish
from training.model import LongTailModel, Outputs
from training.process_group import ProcessGroup

DTYPES = {"F32": torch.float32, "I64": torch.int64}
"""By their names in the format; labels are I64, all else F32."""


class OutputFile:
    """A `BatchReader` that gathers every batch on rank 0 and writes it there."""

    def __init__(
        self, file: BinaryIO | None, shapes: dict[str, tuple[int, ...]], group: ProcessGroup
    ) -> None:
        self.file = file
        """On rank 0 alone."""
        self.group = group
        self.shapes = shapes
        self.starts: dict[str, int] = {}
        """Where each tensor begins, bytes from the start of the file."""
        self.rows = 0
        """Images written so far."""

    def write_header(self, metadata: dict[str, str]) -> None:
        """Write what is known before the first batch: names, shapes and places."""
        assert self.file is not None
        entries: dict[str, Any] = {"__metadata__": metadata}
        end = 0
        for name, shape in self.shapes.items():
            self.starts[name] = end
            end += prod(shape) * DTYPES[_dtype(name)].itemsize
            entries[name] = {
                "dtype": _dtype(name),
                "shape": shape,
                "data_offsets": [self.starts[name], end],
            }
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)  # the format wants the tensors aligned
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.starts = {name: start + 8 + len(text) for name, start in self.starts.items()}

    def read(self, features: Tensor, outputs: Outputs, batch: EvalBatch) -> None:
        """Write the images of one batch of all ranks that count, which come in the order of the set."""
        counted = self.group.gather(batch.counted)
        values = {
            "logits_conventional": outputs.conventional,
            "logits_rebalanced": outputs.rebalanced,
            "features": features,
            "labels": batch.labels,
        }
        gathered = {name: self.group.gather(value) for name, value in values.items()}
        if self.file is None:
            return
        keep = torch.cat(counted).cpu()
        for name, parts in gathered.items():
            rows = torch.cat(parts).cpu()[keep].to(DTYPES[_dtype(name)])
            bytes_a_row = prod(self.shapes[name][1:]) * rows.element_size()
            self.file.seek(self.starts[name] + self.rows * bytes_a_row)
            self.file.write(rows.numpy().tobytes())
        self.rows += int(keep.sum())


@contextmanager
def save_outputs(
    path: Path, model: LongTailModel, images: int, group: ProcessGroup, metadata: dict[str, str]
) -> Iterator[OutputFile]:
    """A reader for one evaluation of `images` images; the file is at `path`, whole, when the block ends.

    It holds logits_conventional and logits_rebalanced (n, C) float32, features (n, D) float32 and labels (n,)
    int64. Raises `UserError` where it cannot be written.
    """
    classes, dimensions = model.conventional_head.out_features, model.conventional_head.in_features
    shapes: dict[str, tuple[int, ...]] = {
        "logits_conventional": (images, classes),
        "logits_rebalanced": (images, classes),
        "features": (images, dimensions),
        "labels": (images,),
    }
    if not group.is_main:
        yield OutputFile(None, shapes, group)
        return
    with partial_file(path, overwrite=True) as file:
        outputs = OutputFile(file, shapes, group)
        outputs.write_header(metadata)
        yield outputs
        assert outputs.rows == images, "every image is written once"
        publish(file, path)


def _dtype(name: str) -> str:
    return "I64" if name == "labels" else "F32"
