"""The subsets against the legacy global generator that the published ones were drawn from."""

# ruff: noqa: NPY002 - the legacy generator is what the code is compared with

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.beton.format import RAW_MODE
from pipelines.sources.cifar_files import CIFAR10, CIFAR100, CifarFormat
from pipelines.sources.cifar_long_tail import SUBSETS, cifar_split, long_tailed_indices
from pipelines.user_error import UserError

SMALL = dataclasses.replace(CIFAR10, rows={"train": 400, "test": 30})


@pytest.fixture
def global_numpy() -> Iterator[None]:
    """Give NumPy's global generator back as it was."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small CIFAR-10 in the binary version."""
    rng = np.random.default_rng(1)
    home = tmp_path / "cifar-10-batches-bin"
    home.mkdir()
    (home / "batches.meta.txt").write_text("\n".join(f"class_{c}" for c in range(10)))
    labels = rng.permutation(np.arange(400) % 10).astype(np.uint8)
    records = np.hstack([labels[:, None], rng.integers(0, 256, (400, 3072), dtype=np.uint8)])
    for i, part in enumerate(np.split(records, 5), start=1):
        (home / f"data_batch_{i}.bin").write_bytes(part.tobytes())
    (home / "test_batch.bin").write_bytes(
        records[np.argsort(labels, kind="stable")[::40].repeat(3)].tobytes()
    )
    return tmp_path


def shuffled_labels(classes: int, per_class: int) -> np.ndarray:
    return np.random.default_rng(2).permutation(np.arange(classes * per_class) % classes)


@pytest.mark.parametrize("factor", [100, 50, 10])
@pytest.mark.parametrize("cifar", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.usefixtures("global_numpy")
def test_published_streams(subset: str, cifar: CifarFormat, factor: int) -> None:
    classes = cifar.num_classes
    labels = shuffled_labels(classes, 50_000 // classes)
    found = long_tailed_indices(labels, classes, factor, subset, SUBSETS[subset])
    np.random.seed({"glmc": 3407, "glmc-2023-04": 3407, "ldam": 0, "first-k": 1}[subset])
    expected = []
    for c in range(classes):
        of_class = np.where(labels == c)[0]
        n, k = len(of_class), int(50_000 / classes * (1 / factor) ** (c / (classes - 1.0)))
        if subset == "glmc":
            expected.append(of_class[np.random.choice(n, k, replace=False)])
        elif subset == "glmc-2023-04":
            expected.append(of_class[np.random.choice(n, k, replace=True)])
        elif subset == "ldam":
            np.random.shuffle(of_class)
            expected.append(of_class[:k])
        else:
            expected.append(np.array([i for i in range(len(labels)) if labels[i] == c][:k]))
    np.testing.assert_array_equal(found, np.concatenate(expected))
    published = {10: {100: 12_406, 50: 13_996, 10: 20_431}, 100: {100: 10_847, 50: 12_608, 10: 19_573}}
    assert len(found) == published[classes][factor]
    assert (len(set(found)) < len(found)) == (subset == "glmc-2023-04")


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()
    long_tailed_indices(shuffled_labels(10, 40), 10, 4, "glmc", 3407)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("subset", SUBSETS)
def test_images_are_those_of_the_paths(data: Path, subset: str) -> None:
    images, encoded = cifar_split(data, SMALL, "train", imbalance_factor=8, subset=subset, seed=None)
    assert images.class_counts().tolist() == [int(40 * 8 ** (-c / 9)) for c in range(10)]
    assert (images.kind, images.name, images.class_names[3]) == ("cifar10-lt", "cifar10-lt_train", "class_3")
    files = sorted((data / "cifar-10-batches-bin").glob("data_batch_*.bin"))
    records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])
    for i, image in enumerate(encoded):
        record = records[int(images.path(i).removeprefix("cifar10/train/"))]
        assert record[0] == images.labels[i]
        assert (image.mode, image.height, image.width) == (RAW_MODE, 32, 32)
        pixels = np.frombuffer(image.data, np.uint8).reshape(32, 32, 3)
        for y, x in ((0, 0), (3, 17), (31, 2)):
            assert pixels[y, x].tolist() == [record[1 + plane * 1024 + y * 32 + x] for plane in range(3)]


@pytest.mark.parametrize("subset", SUBSETS)
def test_balanced_and_test_are_whole_and_in_order(data: Path, subset: str) -> None:
    train, encoded = cifar_split(data, SMALL, "train", imbalance_factor=1, subset=subset, seed=None)
    assert [train.path(i) for i in range(400)] == [f"cifar10/train/{i}" for i in range(400)]
    assert len(list(encoded)) == 400
    test, _ = cifar_split(data, SMALL, "test", imbalance_factor=8, subset=subset, seed=None)
    assert test.class_counts().tolist() == [3] * 10


def test_another_seed_and_a_factor_too_large(data: Path) -> None:
    def paths(seed: int | None) -> list[str]:
        images, _ = cifar_split(data, SMALL, "train", imbalance_factor=8, subset="ldam", seed=seed)
        return [images.path(i) for i in range(len(images))]

    assert paths(None) == paths(0) != paths(1)
    with pytest.raises(UserError, match="--imbalance-factor 41 makes no long-tailed set"):
        cifar_split(data, SMALL, "train", imbalance_factor=41, subset="ldam", seed=None)
