"""The order of the rows in a file: every row once, the same for the same seed, in whatever slices it is asked."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.sources import row_order
from pipelines.sources.image_list import from_rows
from pipelines.sources.row_order import RowOrder, chunks_of, joined_paths


@pytest.mark.parametrize("n", [1, 2, 37, 1000])
def test_a_permutation_in_any_slices(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_order, "CHUNK", 7)
    places = np.arange(n)
    listed, shuffled = RowOrder(n=n, seed=None), RowOrder(n=n, seed=5)
    assert listed.rows(places).tolist() == list(range(n))
    rows = shuffled.rows(places)
    assert sorted(rows.tolist()) == list(range(n))
    assert np.concatenate(list(chunks_of(places, shuffled))).tolist() == rows.tolist()
    if n >= 37:
        assert rows.tolist() != list(range(n))
        assert rows.tolist() != RowOrder(n=n, seed=6).rows(places).tolist()


def test_paths_of_rows() -> None:
    images = from_rows(["a", "ü b", "c/d"], [0, 0, 0], ["only"], kind="list", name="x")
    assert joined_paths(images, np.array([2, 1, 1])).decode() == "c/d\nü b\nü b\n"
