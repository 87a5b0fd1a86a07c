"""The converter's subcommands for small sets of raw pixels: `digits`, `cifar10-lt` and `cifar100-lt`.

Each writes a folder with `train.beton` and `test.beton`, and does nothing where both are there and match.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.manifest import Setting
from pipelines.sources.cifar_files import CIFAR10, CIFAR100, CifarFormat, unpublished_files
from pipelines.sources.cifar_long_tail import SUBSETS, cifar_split
from pipelines.sources.image_list import ImageList
from pipelines.user_error import UserError
from tools.convert_options import (
    Commands,
    add_json_option,
    add_source,
    convert_made,
    is_wanted,
    print_json,
    seed,
)

MakeSplit = Callable[[str], tuple[ImageList, Iterable[EncodedImage]]]

DIGITS_TEXT = """\
Write train.beton, long-tailed, and test.beton, 50 images a class, of scikit-learn's handwritten digits.
Run again on finished files that match, it says so and does nothing.
"""

CIFAR_TEXT = """\
Write train.beton, long-tailed, and test.beton, all test images, from the CIFAR files that torchvision
downloads (or the binary version). Class c of C keeps int(N F^(-c/(C-1))) of its N images, the published
counts. Which ones is a convention of its own, and figures compare only within one:
  glmc          seed 3407, without replacement: GLMC since 2023-05-23 (default)
  glmc-2023-04  seed 3407, with replacement, so with duplicates: GLMC's paper
  ldam          seed 0, shuffled, the first k: LDAM-DRW, and most other methods
  first-k       the first k of each class: LTR-weight-balancing
An imbalance factor of 1 gives the balanced set, whole. Run again on finished files that match, it says so
and does nothing.
"""


def add_digits(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommand `digits`."""
    command = add_source(
        commands,
        "digits",
        summary="Digits-LT, the embedded default, from scikit-learn's handwritten digits",
        text=DIGITS_TEXT,
        example="--out data/digits_lt",
        convert=_convert_digits,
    )
    _add_folder_options(command, factor=50.0, largest=120)
    command.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="which digits are chosen (default: 0)"
    )


def add_cifar(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the subcommands `cifar10-lt` and `cifar100-lt`."""
    for cifar, title in ((CIFAR10, "CIFAR-10"), (CIFAR100, "CIFAR-100")):
        name = f"{cifar.name}-lt"
        command = add_source(
            commands,
            name,
            summary=f"{title}-LT in any of its published subsets, or {title} itself",
            text=CIFAR_TEXT,
            example=f"--data ~/data --subset ldam --out data/{cifar.name}_lt",
            convert=_convert_cifar,
        )
        folders = f"{cifar.python_folder} or {cifar.binary_folder}"
        command.add_argument(
            "--data", type=Path, required=True, metavar="DIR", help=f"folder with {folders} in it"
        )
        _add_folder_options(command, factor=100.0, largest=cifar.rows["train"] // cifar.num_classes)
        command.add_argument(
            "--subset", choices=tuple(SUBSETS), default="glmc", help="which images (default: glmc)"
        )
        command.add_argument("--seed", type=seed, metavar="N", help="another draw than the published one")
        command.set_defaults(cifar=cifar)


def _add_folder_options(command: argparse.ArgumentParser, *, factor: float, largest: int) -> None:
    add = command.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the two files; made if need be")
    add(
        "--imbalance-factor",
        type=float,
        default=factor,
        metavar="F",
        help=f"largest training class over smallest, 1 to {largest} (default: {factor:g})",
    )
    add_json_option(command)
    add("--overwrite", action="store_true", help="replace files that exist")


def _convert_digits(arguments: argparse.Namespace) -> None:
    # Here, for scikit-learn takes a second to import, which other sources need not wait.
    from pipelines.sources.digits import digits_split

    factor = arguments.imbalance_factor
    _convert_splits(
        arguments,
        lambda split: digits_split(split, factor, arguments.seed),
        {"imbalance_factor": factor, "seed": arguments.seed},
    )


def _convert_cifar(arguments: argparse.Namespace) -> None:
    cifar: CifarFormat = arguments.cifar
    factor, subset = arguments.imbalance_factor, arguments.subset
    chosen = SUBSETS[subset] if arguments.seed is None else arguments.seed
    for path in unpublished_files(arguments.data, cifar):
        print(
            f"fasttail-convert: warning: {path}: this is not the file that the papers use, its MD5 differs from "
            "the published one; download it again, unless you changed it yourself",
            file=sys.stderr,
        )
    _convert_splits(
        arguments,
        lambda split: cifar_split(
            arguments.data, cifar, split, imbalance_factor=factor, subset=subset, seed=chosen
        ),
        {"imbalance_factor": factor, "subset": subset, "seed": chosen},
    )


def _convert_splits(
    arguments: argparse.Namespace, make_split: MakeSplit, settings: dict[str, Setting]
) -> None:
    """Write `train.beton` and `test.beton`, where they are not there already; both are looked at first."""
    start = time.perf_counter()
    splits = {arguments.out / f"{split}.beton": make_split(split) for split in ("train", "test")}
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{arguments.out}: cannot make the folder: {error.strerror}") from error
    wanted = [
        out for out, (images, _) in splits.items() if is_wanted(out, images, settings, arguments.overwrite)
    ]
    for out in wanted:
        images, encoded = splits[out]
        convert_made(images, encoded, out, settings=settings, overwrite=arguments.overwrite)
    if arguments.json:
        there = sum(len(images) for out, (images, _) in splits.items() if out not in wanted)
        total = sum(len(images) for images, _ in splits.values())
        print_json(images=total, resumed_from=there, skipped=0, seconds=time.perf_counter() - start)
