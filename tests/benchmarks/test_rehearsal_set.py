"""The lists of a rehearsal: published counts, forms of paths, real lists where they are, a share of each class."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rehearsal_set import published_counts, write_lists

NAMES = {"imagenet-lt": "ImageNet-LT", "inaturalist18": "iNaturalist18"}
"""Of the counts in the shared folder."""


def rows_of(path: Path) -> list[tuple[str, int]]:
    split = [row.rsplit(" ", 1) for row in path.read_text().splitlines()]
    return [(name, int(label)) for name, label in split]


def counts_of(path: Path) -> list[int]:
    counted = Counter(label for _, label in rows_of(path))
    return [counted[label] for label in range(max(counted) + 1)]


@pytest.mark.parametrize("dataset", NAMES)
def test_counts_are_those_of_the_real_lists(dataset: str, shared_data: Path) -> None:
    counted = json.loads((shared_data / "class_counts.json").read_text())
    assert published_counts(dataset).tolist() == counted[NAMES[dataset]]


def test_made_lists_of_imagenet_lt(tmp_path: Path) -> None:
    train, test = write_lists("imagenet-lt", tmp_path / "none", 1, tmp_path)
    assert (train.num_rows, test.num_rows) == (115_846, 50_000)
    assert counts_of(train.listed) == published_counts("imagenet-lt").tolist() == train.counts.tolist()
    assert counts_of(test.listed) == [50] * 1000
    labels = [label for _, label in rows_of(train.listed)]
    assert labels == sorted(labels)
    names = [name for name, _ in rows_of(train.listed) + rows_of(test.listed)]
    assert len(set(names)) == 165_846
    assert re.fullmatch(r"train/(n\d{8})/\1_\d+\.JPEG", names[0])
    assert re.fullmatch(r"val/n\d{8}/ILSVRC2012_val_\d{8}\.JPEG", names[-1])


def test_made_lists_of_inaturalist_are_in_no_order(tmp_path: Path) -> None:
    train, test = write_lists("inaturalist18", tmp_path / "none", 0.1, tmp_path)
    published = published_counts("inaturalist18")
    assert counts_of(train.listed) == np.maximum(1, np.round(0.1 * published)).astype(int).tolist()
    assert counts_of(test.listed) == [1] * 8142
    labels = np.array([label for _, label in rows_of(train.listed)])
    assert abs(np.corrcoef(labels, np.arange(len(labels)))[0, 1]) < 0.05
    assert re.fullmatch(r"train_val2018/Species/\d+/[0-9a-f]{32}\.jpg", rows_of(train.listed)[0][0])


def test_a_real_list_is_taken_as_it_is_and_names_the_folders(shared_data: Path, tmp_path: Path) -> None:
    train, test = write_lists("inaturalist18", shared_data, 1, tmp_path)
    real = shared_data / "iNaturalist18_val.txt"
    assert test.listed.read_bytes() == real.read_bytes()
    assert train.num_rows == 437_513
    folders = {label: name.rpartition("/")[0] for name, label in rows_of(real)}
    assert all(name.rpartition("/")[0] == folders[label] for name, label in rows_of(train.listed))


def test_a_share_keeps_the_first_rows_of_each_class(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    real = [f"val/x{label}/{i}.JPEG {label}" for i in range(7) for label in (2, 0, 1)]
    (lists / "ImageNet_LT_test.txt").write_text("\n".join(real) + "\n")
    _, test = write_lists("imagenet-lt", lists, 0.4, tmp_path)
    assert test.listed.read_text().splitlines() == real[:9]  # 2.8 of 7, rounded
    assert test.counts.tolist() == [3, 3, 3]
    assert test.origin.endswith("ImageNet_LT_test.txt, 0.4 of each class")
