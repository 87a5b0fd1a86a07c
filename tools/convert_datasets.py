"""Turn a set of images into a .beton file and its manifest: a subcommand for each kind of source."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.beton_format import SMALLEST_PAGE
from pipelines.beton_reader import open_beton
from pipelines.beton_writer import write_beton
from pipelines.conversion import convert_images
from pipelines.image_bytes import ImageSettings
from pipelines.manifest import Setting, manifest_path
from pipelines.sources import ImageList, read_class_names, read_list
from pipelines.user_error import UserError, run_command
from pipelines.whole_file import check_output

LIST_TEXT = """\
Convert the images of a list. A baseline JPEG within --max-size goes in byte for byte; every other
image is turned upright, made RGB, shrunk to --max-size and encoded again.
"""
LIST_EXAMPLE = """\
example:
  python tools/convert_datasets.py list --images ~/ImageNet --list ImageNet_LT_train.txt --out train.beton
"""

DIGITS_TEXT = """\
Write train.beton, long-tailed, and test.beton, 50 images a class, of scikit-learn's handwritten digits.
Run again on finished files that match, it says so and does nothing.
"""
DIGITS_EXAMPLE = """\
example:
  python tools/convert_datasets.py digits --out data/digits_lt
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


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "list",
        help="image files named by a list with rows `path label` (ImageNet-LT's form)",
        description=LIST_TEXT,
        epilog=LIST_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder that the paths start from",
    )
    add("--list", type=Path, required=True, metavar="FILE", help="rows `path label`, labels from 0")
    add("--out", type=Path, required=True, metavar="FILE", help="the .beton; its manifest is FILE.json")
    add("--max-size", type=_positive, metavar="N", help="longest side in pixels (default: any)")
    add(
        "--quality",
        type=_positive,
        default=90,
        metavar="Q",
        help="JPEG quality of re-encoded ones (default: 90)",
    )
    add("--num-classes", type=_positive, metavar="N", help="number of classes (default: largest label + 1)")
    add(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="names of the classes, one a line",
    )
    add("--allow-empty-classes", action="store_true", help="take a list in which a class has no images")
    add("--workers", type=_positive, metavar="N", help="threads (default: the CPUs this process may use)")
    add("--overwrite", action="store_true", help="replace the output if it exists")
    command.set_defaults(convert=_convert_list)


def _add_digits(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "digits",
        help="Digits-LT, the embedded default, from scikit-learn's handwritten digits",
        description=DIGITS_TEXT,
        epilog=DIGITS_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    add("--seed", type=_seed, default=0, metavar="N", help="which digits are chosen (default: 0)")
    add("--overwrite", action="store_true", help="replace files that exist")
    command.set_defaults(convert=_convert_digits)


def _positive(text: str) -> int:
    return _whole_number(text, least=1)


def _seed(text: str) -> int:
    return _whole_number(text, least=0)


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least}")
    return int(text)


def _convert_list(arguments: argparse.Namespace) -> None:
    settings = ImageSettings(max_size=arguments.max_size, quality=arguments.quality)
    images = read_list(
        arguments.list,
        num_classes=arguments.num_classes,
        class_names=read_class_names(arguments.class_names) if arguments.class_names else None,
        allow_empty_classes=arguments.allow_empty_classes,
    )
    done = convert_images(
        images,
        arguments.images,
        arguments.out,
        settings,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )
    print(
        f"{arguments.out}: {done.num_images:,} images of {done.num_classes:,} classes, "
        f"{done.beton_length:,} bytes in {done.seconds:.1f} s; {done.copied:,} copied byte for byte, "
        f"{done.num_images - done.copied:,} re-encoded"
    )


def _convert_digits(arguments: argparse.Namespace) -> None:
    # Here, for scikit-learn takes a second to import, which other sources need not wait.
    from pipelines.digits import digits_split

    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{arguments.out}: cannot make the folder: {error.strerror}") from error
    settings: dict[str, Setting] = {"imbalance_factor": arguments.imbalance_factor, "seed": arguments.seed}
    wanted = {}
    for split in ("train", "test"):
        out = arguments.out / f"{split}.beton"
        images, encoded = digits_split(split, arguments.imbalance_factor, arguments.seed)
        if not arguments.overwrite and _is_finished(out, images, settings):
            print(f"{out}: finished already, from the same digits with the same settings")
        else:
            check_output(out, arguments.overwrite)  # of both files, before one is written
            wanted[out] = (images, encoded)
    for out, (images, encoded) in wanted.items():
        start = time.perf_counter()
        manifest = write_beton(
            out,
            images,
            encoded,
            settings=settings,
            overwrite=arguments.overwrite,
            page_size=SMALLEST_PAGE,
        )
        print(
            f"{out}: {len(images):,} images of {images.num_classes} classes, "
            f"{manifest.tables.beton_length:,} bytes in {time.perf_counter() - start:.1f} s"
        )


def _is_finished(out: Path, images: ImageList, settings: dict[str, Setting]) -> bool:
    """Whether `out` is whole and was made from these images with these settings."""
    if not (out.exists() and manifest_path(out).exists()):
        return False
    manifest = open_beton(out).manifest
    return (
        manifest is not None
        and manifest.source.sha256 == images.sha256
        and manifest.settings == dict(settings)
    )


if __name__ == "__main__":
    raise SystemExit(main())
