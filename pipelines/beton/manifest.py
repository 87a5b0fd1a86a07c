"""What stands beside a beton, in `FILE.beton.json`: where its images come from and how they are distributed.

The beton alone says neither which list it was made from nor what its classes are called. The manifest does,
and it holds the beton's length and a digest of its tables, so that one that belongs to another file is
refused. It does not hold its own path: the pair can be moved and copied. Every key must be there and of its
type; none may be unknown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from pipelines.user_error import UserError

FORMAT_VERSION = 2

SHOT_RULE = "many: more than 100 images, medium: 20 to 100, few: fewer than 20"

Setting = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Shots:
    """How many classes are many, medium and few."""

    rule: str
    """The rule in words: other code bases draw the lines elsewhere."""
    many: int
    medium: int
    few: int

    @classmethod
    def of(cls, class_counts: np.ndarray) -> Shots:
        """Count the classes of each group from the (C,) numbers of images."""
        many = int((class_counts > 100).sum())
        few = int((class_counts < 20).sum())
        return cls(rule=SHOT_RULE, many=many, medium=len(class_counts) - many - few, few=few)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the images were made from."""

    kind: str
    """The converter's subcommand: `list`, `digits`."""
    name: str
    """Name of the list file, without its folder."""
    sha256: str
    """SHA-256 of the list file's bytes; of a set without a file, of the list that it would have."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A range of the beton's bytes."""

    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What ties the manifest to its beton."""

    beton_length: int
    """Bytes of the whole beton."""
    sha256: str
    """SHA-256 of header, field descriptors, metadata table and allocation table, in this order."""


@dataclass(frozen=True, kw_only=True)
class Checksums:
    """SHA-256 of all bytes of the beton, part by part: together the parts are the whole file."""

    page_size: int
    """Bytes."""
    first_page: int
    """Where the pages start."""
    header: str
    """Of what is before the pages: header, descriptors, metadata table, zeros."""
    pages: list[str]
    """Of each page, the zeros at its end included."""
    names: str
    """Of what is between pages and allocation table: source paths, checksums of the images, zeros."""
    allocation_table: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `FILE.beton.json`."""

    format_version: int
    tool_version: str
    """Version of fasttail that wrote the file."""
    num_images: int
    class_counts: list[int]
    """Images of each class, in the order of the labels."""
    class_names: list[str]
    shots: Shots
    source: Source
    settings: dict[str, Setting]
    """What the conversion was asked for, as far as it changes the bytes."""
    source_paths: Region
    """Where the beton holds the paths of its images in the source list: UTF-8, joined by newlines."""
    image_checksums: Region
    """Where it holds the CRC-32 of the bytes of each image, 4 bytes each, little endian."""
    skipped: int
    """Rows of the list that were left out, see `FILE.beton.skipped.csv`."""
    tables: Tables
    checksums: Checksums
    manifest_sha256: str
    """SHA-256 of this file's text with nothing between the quotes here."""


def manifest_path(beton: Path) -> Path:
    """Return where the manifest of `beton` stands."""
    return beton.with_name(beton.name + ".json")


def tables_sha256(parts: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of header, field descriptors, metadata and allocation table."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.data)
    return digest.hexdigest()


def tool_version() -> str:
    """Return the version of the installed fasttail, or `source tree` where it is not installed."""
    try:
        return importlib.metadata.version("fasttail")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def to_json(manifest: Manifest) -> str:
    """Return the text of the manifest's file."""
    return json.dumps(dataclasses.asdict(manifest), ensure_ascii=False, indent=1) + "\n"


def signed(manifest: Manifest) -> Manifest:
    """Return the manifest with the digest of its own text."""
    unsigned = dataclasses.replace(manifest, manifest_sha256="")
    digest = hashlib.sha256(to_json(unsigned).encode()).hexdigest()
    return dataclasses.replace(manifest, manifest_sha256=digest)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        UserError: it is no manifest, of another format, or its keys, types or sums are wrong.
    """
    remedy = "bring back the manifest that was written beside the beton, or convert again with --overwrite"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the manifest ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a manifest, for it is not JSON ({error}); {remedy}") from error
    if isinstance(content, dict) and content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        found = content["format_version"]
        raise UserError(
            f"{path}: manifest of format {found!r}, but this fasttail reads format {FORMAT_VERSION}; "
            "convert again, or use the fasttail that wrote it"
        )
    try:
        manifest: Manifest = _typed(content, Manifest, "the manifest")
        _check_sums(manifest)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error
    return manifest


def _typed(value: Any, wanted: Any, where: str) -> Any:
    """Return JSON `value` as `wanted`: a dataclass, list[...], dict[str, ...], union or plain type."""
    if dataclasses.is_dataclass(wanted):
        return _typed_dataclass(value, wanted, where)
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is list and isinstance(value, list):
        return [_typed(item, arguments[0], f"an item of {where}") for item in value]
    if origin is dict and isinstance(value, dict):
        return {key: _typed(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    plain = arguments if origin not in (list, dict) and arguments else (wanted,)
    if type(value) not in plain:  # not isinstance: True is no number of images
        raise ValueError(f"{where} has the wrong type ({type(value).__name__})")
    return value


def _typed_dataclass(value: Any, wanted: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} has the wrong type ({type(value).__name__})")
    types = get_type_hints(wanted)
    if missing := sorted(types.keys() - value.keys()):
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if unknown := sorted(value.keys() - types.keys()):
        raise ValueError(f"{where} has unknown keys: {', '.join(unknown)}")
    return wanted(**{key: _typed(item, types[key], key) for key, item in value.items()})


def _check_sums(manifest: Manifest) -> None:
    counts = manifest.class_counts
    if any(count < 0 for count in counts) or sum(counts) != manifest.num_images:
        raise ValueError(f"class_counts do not sum to num_images ({manifest.num_images})")
    if len(manifest.class_names) != len(counts):
        raise ValueError(f"there are {len(manifest.class_names)} class_names for {len(counts)} class_counts")
    for name in ("source_paths", "image_checksums"):
        region: Region = getattr(manifest, name)
        if min(region.offset, region.length) < 0:
            raise ValueError(f"{name} lies outside the file")
    if manifest.image_checksums.length != 4 * manifest.num_images:
        raise ValueError(f"image_checksums are not 4 bytes for each of {manifest.num_images} images")
