"""A folder for each class: torchvision's ImageFolder layout, whole or made long-tailed.

`root/<class>/**/<image>`: the classes are the folders in sorted order, their images all files with a known
extension, in sorted order. Names that start with a dot (`.ipynb_checkpoints`, `._photo.jpg`) are left out: a
file manager or an editor made them.

To make a set long-tailed, the classes are ranked by the number of their images, ties by name; class r keeps its
share of long_tail.py (or all, where it has fewer), drawn from the seed. A smaller imbalance factor keeps every image
that a larger one of the same decay does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.sources.image_list import ImageList, check_no_empty_class, check_path, from_rows
from pipelines.sources.long_tail import exponential_counts, pareto_counts
from pipelines.user_error import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Torchvision's, in any case."""

DECAYS = {"exponential": exponential_counts, "pareto": pareto_counts}


def read_folder(
    root: Path, *, extensions: Sequence[str] = EXTENSIONS, allow_empty_classes: bool = False
) -> ImageList:
    """List the images of a folder of class folders; links are followed.

    Raises:
        UserError: the folder cannot be read, has no class folders, a class without images (unless allowed), a
            name that is not UTF-8 or that no list can hold, or folders that contain themselves through a link.
    """
    wanted = tuple(extension.lower() for extension in extensions)
    try:
        with os.scandir(root) as listing:
            names = sorted(entry.name for entry in listing if _visible(entry) and entry.is_dir())
    except OSError as error:
        raise UserError(f"{root}: cannot read the folder: {error.strerror}") from error
    if not names:
        raise UserError(f"{root}: no class folders are in it; give the folder that holds one for each class")
    paths: list[str] = []
    counts = []
    for name in names:
        found = sorted(_files(root, name, wanted, ()))
        paths += found
        counts.append(len(found))
    for path in paths:
        _check_name(root, path)
    if not paths:
        raise UserError(f"{root}: no images ({', '.join(wanted)}) in {len(names)} class folders")
    labels = np.repeat(np.arange(len(names)), counts)
    images = from_rows(paths, labels.tolist(), names, kind="folder", name=root.resolve().name)
    if not allow_empty_classes:
        check_no_empty_class(root, images)
    return images


def make_long_tailed(images: ImageList, decay: str, imbalance_factor: float, seed: int) -> ImageList:
    """Keep of each class what the decay leaves it; images stay in their order.

    Raises:
        UserError: the factor leaves a class without images.
    """
    available = images.class_counts()
    ranked = np.argsort(-available, kind="stable")
    kept_counts = np.zeros_like(available)
    kept_counts[ranked] = DECAYS[decay](int(available.max()), len(available), imbalance_factor)
    by_class = np.argsort(images.labels, kind="stable")
    kept = []
    for label, members in enumerate(np.split(by_class, np.cumsum(available)[:-1])):
        drawn = np.random.default_rng([seed, label]).permutation(members)
        kept.append(np.sort(drawn[: kept_counts[label]]))
    chosen = np.sort(np.concatenate(kept))
    return from_rows(
        (images.path(i) for i in chosen),
        images.labels[chosen].tolist(),
        images.class_names,
        kind=images.kind,
        name=images.name,
    )


def _visible(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".")


def _files(
    root: Path, folder: str, extensions: tuple[str, ...], above: tuple[tuple[int, int], ...]
) -> list[str]:
    """Return the images under `root/folder`, relative to `root`; `above` are the folders on the way here."""
    found = []
    try:
        status = (root / folder).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise UserError(f"{root / folder}: the folder contains itself through a link; remove the link")
        with os.scandir(root / folder) as listing:
            entries = [entry for entry in listing if _visible(entry)]
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_dir():
                found += _files(root, path, extensions, (*above, here))
            elif entry.name.lower().endswith(extensions):
                found.append(path)
    except OSError as error:
        raise UserError(f"{root / folder}: cannot read the folder: {error.strerror}") from error
    return found


def _check_name(root: Path, path: str) -> None:
    try:
        check_path(path.encode())
    except UnicodeEncodeError as error:
        raise UserError(f"{root}: the name {path!r} is not UTF-8; rename the file") from error
    except ValueError as error:
        raise UserError(f"{root}: {path!r}: {error}; rename the file") from error
