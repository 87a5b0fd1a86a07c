"""Turn a set of images into a .beton file and its manifest: a subcommand for each kind of source."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pipelines.manifest import Setting
from pipelines.sources import read_class_names, read_list
from pipelines.user_error import UserError, run_command
from tools.convert_options import (
    Commands,
    add_image_options,
    add_source,
    convert_listed,
    convert_made,
    is_wanted,
    positive,
    seed,
)

LIST_TEXT = """\
Convert the images of a list. A baseline JPEG within --max-size goes in byte for byte; every other
image is turned upright, made RGB, shrunk to --max-size and encoded again.
"""

DIGITS_TEXT = """\
Write train.beton, long-tailed, and test.beton, 50 images a class, of scikit-learn's handwritten digits.
Run again on finished files that match, it says so and does nothing.
"""


def main() -> int:
    """Run the command line and return its exit status; a mistake of the user's is one line on stderr."""
    return run_command("fasttail-convert", _main)


def _main() -> int:
    arguments = _parser().parse_args()
    convert: Callable[[argparse.Namespace], None] = arguments.convert
    convert(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fasttail-convert", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="SOURCE", title="sources")
    _add_list(commands)
    _add_digits(commands)
    return parser


def _add_list(commands: Commands[argparse.ArgumentParser]) -> None:
    command = add_source(
        commands,
        "list",
        summary="image files named by a list with rows `path label` (ImageNet-LT's form)",
        text=LIST_TEXT,
        example="--images ~/ImageNet --list ImageNet_LT_train.txt --out train.beton",
        convert=_convert_list,
    )
    add = command.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="folder that the paths start from")
    add("--list", type=Path, required=True, metavar="FILE", help="rows `path label`, labels from 0")
    add("--num-classes", type=positive, metavar="N", help="number of classes (default: largest label + 1)")
    add("--class-names", type=Path, metavar="FILE", help="names of the classes, one a line")
    add("--allow-empty-classes", action="store_true", help="take a list in which a class has no images")
    add_image_options(command)


def _add_digits(commands: Commands[argparse.ArgumentParser]) -> None:
    command = add_source(
        commands,
        "digits",
        summary="Digits-LT, the embedded default, from scikit-learn's handwritten digits",
        text=DIGITS_TEXT,
        example="--out data/digits_lt",
        convert=_convert_digits,
    )
    add = command.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the two files; made if need be")
    add(
        "--imbalance-factor",
        type=float,
        default=50.0,
        metavar="F",
        help="largest training class over smallest, 1 to 120 (default: 50)",
    )
    add("--seed", type=seed, default=0, metavar="N", help="which digits are chosen (default: 0)")
    add("--overwrite", action="store_true", help="replace files that exist")


def _convert_list(arguments: argparse.Namespace) -> None:
    images = read_list(
        arguments.list,
        num_classes=arguments.num_classes,
        class_names=read_class_names(arguments.class_names) if arguments.class_names else None,
        allow_empty_classes=arguments.allow_empty_classes,
    )
    convert_listed(images, arguments.images, arguments)


def _convert_digits(arguments: argparse.Namespace) -> None:
    # Here, for scikit-learn takes a second to import, which other sources need not wait.
    from pipelines.digits import digits_split

    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{arguments.out}: cannot make the folder: {error.strerror}") from error
    settings: dict[str, Setting] = {"imbalance_factor": arguments.imbalance_factor, "seed": arguments.seed}
    splits = {
        arguments.out / f"{split}.beton": digits_split(split, arguments.imbalance_factor, arguments.seed)
        for split in ("train", "test")
    }
    wanted = [
        out for out, (images, _) in splits.items() if is_wanted(out, images, settings, arguments.overwrite)
    ]
    for out in wanted:  # both were looked at before one is written
        images, encoded = splits[out]
        convert_made(images, encoded, out, settings=settings, overwrite=arguments.overwrite)


if __name__ == "__main__":
    raise SystemExit(main())
