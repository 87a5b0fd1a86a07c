"""The sparse confusion matrix against scikit-learn, and at the size of iNaturalist 2018."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from sklearn import metrics

from pipelines.batch import EvalBatch
from training.confusion import Confusions, most_confused, write_confusion
from training.model import Outputs
from training.process_group import ProcessGroup

CPU = torch.device("cpu")
NOTHING = torch.zeros(0)


def confuse(classes: int, sizes: tuple[int, ...]) -> tuple[Confusions, np.ndarray, np.ndarray]:
    """Random batches, and labels and predictions of what counts of them, by a loop."""
    draws = torch.Generator().manual_seed(classes)
    confusions, labels, predicted = Confusions("rebalanced", ProcessGroup(0, 1, CPU)), [], []
    for n in sizes:
        logits = torch.randn(n, classes, generator=draws)
        batch = EvalBatch(
            NOTHING,
            torch.randint(classes - 1, (n,), generator=draws),  # the last class never occurs
            torch.rand(n, generator=draws) < 0.7,
        )
        confusions.read(NOTHING, Outputs(-logits, logits, NOTHING, NOTHING), batch)
        for row, label, counted in zip(logits.numpy(), batch.labels.tolist(), batch.counted, strict=True):
            if counted:
                labels.append(label)
                predicted.append(int(np.argmax(row)))
    return confusions, np.array(labels), np.array(predicted)


def test_the_matrix_is_scikit_learns(tmp_path: Path) -> None:
    confusions, labels, predicted = confuse(6, (90, 31, 2))
    matrix = confusions.matrix()
    assert matrix is not None
    expected = metrics.confusion_matrix(labels, predicted, labels=range(6))
    assert np.array_equal(matrix.toarray(), expected)
    assert not np.array_equal(expected, expected.T)
    assert 60 < expected.sum() < 123
    write_confusion(matrix, tmp_path / "c.npz")
    assert np.array_equal(sparse.load_npz(tmp_path / "c.npz").toarray(), expected)
    wrong = [(i, j, int(expected[i, j])) for i in range(6) for j in range(6) if i != j and expected[i, j]]
    ordered = sorted(wrong, key=lambda entry: (-entry[2], entry[0], entry[1]))
    assert most_confused(matrix, 100) == ordered
    assert most_confused(matrix, 4) == ordered[:4]


def test_eight_thousand_classes_take_as_much_as_their_images(tmp_path: Path) -> None:
    confusions, labels, predicted = confuse(8142, (50, 50))
    matrix = confusions.matrix()
    assert matrix is not None
    assert matrix.shape == (8142, 8142)
    assert matrix.nnz <= matrix.sum() == len(labels)
    assert [int(matrix[i, j]) for i, j in zip(labels, predicted, strict=True)] == [1] * len(labels)
    write_confusion(matrix, tmp_path / "c.npz")
    assert (tmp_path / "c.npz").stat().st_size < 50_000
