"""Turn a set of images into a .beton file and its manifest (a subcommand a source), verify one, describe one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pipelines.sources.image_list import read_class_names, read_list
from pipelines.user_error import run_command
from tools.convert_files import add_info, add_verify
from tools.convert_options import Commands, add_image_options, add_source, convert_listed, positive
from tools.convert_small_sets import add_cifar, add_digits
from tools.convert_sources import add_folder, add_inaturalist_json, add_known_lists

LIST_TEXT = """\
Convert the images of a list. A baseline JPEG within --max-size goes in byte for byte; every other
image is turned upright, made RGB, shrunk to --max-size and encoded again.
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
    add_known_lists(commands)
    add_inaturalist_json(commands)
    add_cifar(commands)
    add_folder(commands)
    _add_list(commands)
    add_digits(commands)
    add_verify(commands)
    add_info(commands)
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


def _convert_list(arguments: argparse.Namespace) -> None:
    images = read_list(
        arguments.list,
        num_classes=arguments.num_classes,
        class_names=read_class_names(arguments.class_names) if arguments.class_names else None,
        allow_empty_classes=arguments.allow_empty_classes,
    )
    convert_listed(images, arguments.images, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
