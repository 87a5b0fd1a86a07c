"""The confusion matrix, sparse: n test images fill at most n of its C x C entries.

Dense, iNaturalist's 8,142 classes would take 530 MB for 24,426 images, and a sum of it over ranks. What is kept of
an image is one number, which says its entry.
"""

from __future__ import annotations

from pathlib import Path

import torch
from scipy import sparse
from torch import Tensor

from pipelines.batch import EvalBatch
from pipelines.whole_file import partial_file, publish
from training.model import InferenceHead, Outputs
from training.process_group import ProcessGroup

NOT_COUNTED = -1


class Confusions:
    """A `BatchReader` that notes what one head takes each image for."""

    def __init__(self, head: InferenceHead, group: ProcessGroup) -> None:
        self.head = head
        self.group = group
        self.classes = 0
        self.entries: list[Tensor] = []
        """(N,) int64 of each batch: label · C + predicted class, or NOT_COUNTED."""

    def read(self, features: Tensor, outputs: Outputs, batch: EvalBatch) -> None:
        """Note this rank's batch, on the device."""
        logits = outputs.logits(self.head)
        self.classes = logits.shape[1]
        entry = batch.labels * self.classes + logits.argmax(1)
        self.entries.append(entry.where(batch.counted, NOT_COUNTED))

    def matrix(self) -> sparse.csr_array | None:
        """(C, C) int64 on rank 0, None on the others: entry (i, j) counts images of class i taken for class j."""
        gathered = self.group.gather(torch.cat(self.entries))
        if not self.group.is_main:
            return None
        entries = torch.cat(gathered).cpu()
        places, counts = entries[entries != NOT_COUNTED].unique(return_counts=True)
        places, counts = places.numpy(), counts.numpy()
        shape = (self.classes, self.classes)
        return sparse.csr_array((counts, (places // self.classes, places % self.classes)), shape=shape)


def most_confused(matrix: sparse.csr_array, number: int) -> list[tuple[int, int, int]]:
    """The largest entries beside the diagonal: (class, taken for, images), at most `number`, the largest first."""
    entries = matrix.tocoo()
    wrong = [
        (int(i), int(j), int(count))
        for i, j, count in zip(entries.row, entries.col, entries.data, strict=True)
        if i != j
    ]
    return sorted(wrong, key=lambda entry: (-entry[2], entry[:2]))[:number]


def write_confusion(matrix: sparse.csr_array, path: Path) -> None:
    """Write an .npz that `scipy.sparse.load_npz` reads, whole or not at all, without pickle."""
    with partial_file(path, overwrite=True) as file:
        sparse.save_npz(file, matrix)
        publish(file, path)
