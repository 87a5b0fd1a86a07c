"""CIFAR-10-LT and CIFAR-100-LT: the subsets that published figures were made with.

Class c of C keeps int(N F^(-c/(C-1))) of its N images. Which ones, the code bases of the field do differently, and
whoever compares figures must know:

| subset         | which images                                          | used by                          |
|----------------|-------------------------------------------------------|----------------------------------|
| `glmc`         | seed 3407, class by class choice(n, k, replace=False) | GLMC since 2023-05-23            |
| `glmc-2023-04` | seed 3407, choice(n, k, replace=True): has duplicates | GLMC before; its paper's figures |
| `ldam`         | seed 0, class by class shuffle, then the first k      | LDAM-DRW and most others         |
| `first-k`      | the first k of each class, as they stand in the files | LTR-weight-balancing             |

The official code seeds NumPy's global generator; `RandomState` gives the same stream and disturbs nobody else's.
Images are stored raw, 32 x 32 RGB, class by class.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import RAW_MODE
from pipelines.sources.cifar_files import SIDE, CifarFormat, CifarSplit, read_cifar
from pipelines.sources.image_list import ImageList, from_rows
from pipelines.sources.long_tail import exponential_counts

SUBSETS = {"glmc": 3407, "glmc-2023-04": 3407, "ldam": 0, "first-k": 0}
"""The conventions and the seed that each was published with."""


def cifar_split(
    data: Path, cifar: CifarFormat, split: str, *, imbalance_factor: float, subset: str, seed: int | None
) -> tuple[ImageList, Iterator[EncodedImage]]:
    """Return the list of the `train` or `test` images, and the images themselves.

    The test split is whole, and so is the training split at factor 1; both keep the order of the files.

    Args:
        data: folder of the CIFAR files.
        cifar: CIFAR10 or CIFAR100.
        split: `train` or `test`.
        imbalance_factor: largest class over smallest.
        subset: one of `SUBSETS`.
        seed: None for the published one.

    Raises:
        UserError: the files are missing or damaged; the factor leaves a class without images.
    """
    whole = read_cifar(data, cifar, split)
    if split == "test" or imbalance_factor == 1:
        chosen = np.arange(len(whole.labels))
    else:
        published = SUBSETS[subset]
        chosen = long_tailed_indices(
            whole.labels, cifar.num_classes, imbalance_factor, subset, published if seed is None else seed
        )
    kind = f"{cifar.name}-lt"
    images = from_rows(
        [f"{cifar.name}/{split}/{index}" for index in chosen.tolist()],
        whole.labels[chosen].tolist(),
        whole.class_names,
        kind=kind,
        name=f"{kind}_{split}",
    )
    return images, (_interleave(whole, index) for index in chosen.tolist())


def long_tailed_indices(
    labels: np.ndarray, num_classes: int, imbalance_factor: float, subset: str, seed: int
) -> np.ndarray:
    """Return the (m,) int64 indices of the images kept, class by class, as the convention orders them."""
    counts = exponential_counts(len(labels) // num_classes, num_classes, imbalance_factor)
    stream = np.random.RandomState(seed)  # one stream through all classes
    kept = []
    for c, count in enumerate(counts):
        members = np.flatnonzero(labels == c)
        if subset == "ldam":
            stream.shuffle(members)
            kept.append(members[:count])
        elif subset == "first-k":
            kept.append(members[:count])
        else:
            kept.append(stream.choice(members, count, replace=subset == "glmc-2023-04"))
    return np.concatenate(kept)


def _interleave(whole: CifarSplit, index: int) -> EncodedImage:
    """Turn three planes into RGB pixels."""
    planes = whole.pixels[index].reshape(3, SIDE, SIDE)
    return EncodedImage(planes.transpose(1, 2, 0).tobytes(), RAW_MODE, SIDE, SIDE, copied=False)
