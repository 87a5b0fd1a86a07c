"""The converter's subcommands for published lists, iNaturalist's annotation files and class folders."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from pipelines.beton.manifest import Setting
from pipelines.sources.image_folder import DECAYS, EXTENSIONS, make_long_tailed, read_folder
from pipelines.sources.image_list import read_class_names, read_list
from pipelines.sources.inaturalist_json import read_inaturalist_json
from pipelines.sources.known_lists import KNOWN_LISTS, compare_with_known, fit_to_disk, known_by_counts
from pipelines.user_error import UserError
from tools.convert_options import Commands, add_image_options, add_source, convert_listed, seed

KNOWN_TEXT = """\
Convert one of the lists that the papers use; a row is `path label`. The list is compared with the
published ones: where it differs, a warning says in what, and the conversion goes on.
Known: {known}.
"""
TEST_LIST_TEXT = """\
The test list's paths may be val/<wnid>/<image> or val/<image>, and so may be the folders on the disk.
"""

JSON_TEXT = """\
Convert the images of an annotation file of iNaturalist's (train2018.json, val2018.json and those of other
years); no list is needed. Labels are the category ids in order.
"""

FOLDER_TEXT = """\
Convert a folder of class folders, torchvision's ImageFolder layout: full ImageNet, or a set of your own.
Classes are the folders in sorted order; names that start with a dot are left out.
--long-tail makes the set long-tailed. Classes are ranked by their number of images, then by name; with
N images in the largest, rank r of C (from 0) keeps, drawn from --seed,
  exponential  int(N F^(-r/(C-1)))
  pareto       int(N (r+1)^(-ln F / ln C))
or all of its images, where it has fewer.
"""

KNOWN_SETS = {
    "imagenet-lt": ("ImageNet-LT", "ImageNet", "ImageNet_LT_train.txt"),
    "inaturalist18": ("iNaturalist 2018", "inat2018", "iNaturalist18_train.txt"),
    "places-lt": ("Places-LT", "Places365", "Places_LT_train.txt"),
}
"""Subcommand: title, folder and list of its example."""


def add_known_lists(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommands `imagenet-lt`, `inaturalist18` and `places-lt`."""
    for name, (title, folder, example) in KNOWN_SETS.items():
        known = ", ".join(f"{one.name} ({one.images:,} images)" for one in KNOWN_LISTS[name])
        text = KNOWN_TEXT.format(known=known) + (TEST_LIST_TEXT if name == "imagenet-lt" else "")
        command = add_source(
            commands,
            name,
            summary=f"{title}, from its published list",
            text=text,
            example=f"--images ~/{folder} --list {example} --out train.beton",
            convert=_convert_known,
        )
        add = command.add_argument
        add("--images", type=Path, required=True, metavar="DIR", help="folder that the paths start from")
        add("--list", type=Path, required=True, metavar="FILE", help="training, validation or test list")
        add("--class-names", type=Path, metavar="FILE", help="names of the classes, one a line")
        _add_allow_empty(command)
        add_image_options(command)
        command.set_defaults(dataset=name)


def add_inaturalist_json(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommand `inaturalist-json`."""
    command = add_source(
        commands,
        "inaturalist-json",
        summary="iNaturalist of any year, from its annotation file",
        text=JSON_TEXT,
        example="--images ~/inat2018 --annotations train2018.json --out train.beton",
        convert=_convert_json,
    )
    add = command.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder that holds train_val2018")
    add("--annotations", type=Path, required=True, metavar="FILE", help="train2018.json or the like")
    _add_allow_empty(command)
    add_image_options(command)


def add_folder(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommand `folder`."""
    command = add_source(
        commands,
        "folder",
        summary="a folder for each class (ImageFolder), whole or made long-tailed",
        text=FOLDER_TEXT,
        example="--images ~/ImageNet/train --long-tail exponential --out train.beton",
        convert=_convert_folder,
    )
    add = command.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder that holds the class folders")
    add(
        "--extensions",
        nargs="+",
        default=EXTENSIONS,
        metavar="EXT",
        help=f"of image files (default: {' '.join(EXTENSIONS)})",
    )
    add("--long-tail", choices=tuple(DECAYS), help="make the set long-tailed (default: take all images)")
    add(
        "--imbalance-factor",
        type=float,
        metavar="F",
        help="of --long-tail: largest class over smallest (default: 100)",
    )
    add("--seed", type=seed, metavar="N", help="of --long-tail: which images are kept (default: 0)")
    _add_allow_empty(command)
    add_image_options(command)


def _add_allow_empty(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-empty-classes", action="store_true", help="take a set in which a class has no images"
    )


def _convert_known(arguments: argparse.Namespace) -> None:
    images = read_list(
        arguments.list,
        class_names=read_class_names(arguments.class_names) if arguments.class_names else None,
        allow_empty_classes=arguments.allow_empty_classes,
    )
    compared = compare_with_known(arguments.list, images, arguments.dataset)
    if compared.differences:
        print(
            f"fasttail-convert: warning: {arguments.list}: this is not the list the papers use "
            f"({compared.known.name}), it differs in {'; '.join(compared.differences)}",
            file=sys.stderr,
        )
    else:
        print(f"{arguments.list}: {compared.known.name}, the list the papers use")
    if arguments.dataset == "imagenet-lt":
        images = fit_to_disk(images, arguments.images)
    convert_listed(dataclasses.replace(images, kind=arguments.dataset), arguments.images, arguments)


def _convert_json(arguments: argparse.Namespace) -> None:
    images = read_inaturalist_json(arguments.annotations, allow_empty_classes=arguments.allow_empty_classes)
    if known := known_by_counts(images, "inaturalist18"):
        print(f"{arguments.annotations}: the class counts are those of {known.name}")
    convert_listed(images, arguments.images, arguments)


def _convert_folder(arguments: argparse.Namespace) -> None:
    decay, factor, chosen = arguments.long_tail, arguments.imbalance_factor, arguments.seed
    if decay is None and (factor is not None or chosen is not None):
        raise UserError("--imbalance-factor and --seed are of --long-tail; give that too, or leave them out")
    if not all(extension.startswith(".") for extension in arguments.extensions):
        raise UserError(f"--extensions {' '.join(arguments.extensions)}: each starts with a dot, like .jpg")
    images = read_folder(
        arguments.images,
        extensions=arguments.extensions,
        allow_empty_classes=arguments.allow_empty_classes,
    )
    settings: dict[str, Setting] = {}
    if decay is not None:
        factor, chosen = 100.0 if factor is None else factor, chosen or 0
        settings = {"long_tail": decay, "imbalance_factor": factor, "subset_seed": chosen}
        kept = make_long_tailed(images, decay, factor, chosen)
        counts = kept.class_counts()
        print(
            f"{arguments.images}: {len(kept):,} of {len(images):,} images kept, "
            f"{counts.max():,} in the largest class, {counts.min():,} in the smallest"
        )
        images = kept
    convert_listed(images, arguments.images, arguments, settings)
