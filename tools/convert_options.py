"""What all subcommands of the converter share: their options, and the conversion itself.

A subcommand makes a list of images from its own arguments and hands it to `convert_listed` (image files under a
root) or `convert_made` (images that the subcommand makes itself); all else is the same for every source.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import SMALLEST_PAGE
from pipelines.beton.manifest import Setting, manifest_path
from pipelines.beton.reader import open_beton
from pipelines.beton.writer import write_beton
from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import CHECKS, ImageSettings
from pipelines.conversion.settings import ConversionSettings
from pipelines.conversion.skipped_rows import skipped_path
from pipelines.sources.image_list import ImageList
from pipelines.whole_file import check_output

Commands = argparse._SubParsersAction


def add_source(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    *,
    summary: str,
    text: str,
    example: str,
    convert: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    """Add a subcommand whose help ends with an example and which runs `convert(arguments)`."""
    command = commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog=f"example:\n  python tools/convert_datasets.py {name} {example}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(convert=convert)
    return command


def add_image_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a source of image files: what `convert_listed` reads from its arguments."""
    add = command.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="the .beton; its manifest is FILE.json")
    add("--max-size", type=positive, metavar="N", help="longest side in pixels (default: any)")
    add(
        "--quality",
        type=positive,
        default=90,
        metavar="Q",
        help="JPEG quality of re-encoded ones (default: 90)",
    )
    add("--short-side", type=positive, metavar="N", help="the shorter side in pixels (default: any)")
    add(
        "--check",
        choices=CHECKS,
        default="codes",
        help="of JPEGs that go in byte for byte: walk their markers alone, their Huffman codes too (default), or "
        "decode them as well",
    )
    add(
        "--on-bad",
        choices=("stop", "skip"),
        default="stop",
        help="at a bad image: stop (default), or leave it out and write it down in FILE.skipped.csv",
    )
    add(
        "--order",
        choices=("listed", "shuffled"),
        default="listed",
        help="of the images in the file (default: as listed)",
    )
    add("--order-seed", type=seed, default=0, metavar="N", help="of --order shuffled (default: 0)")
    add_json_option(command)
    add("--workers", type=positive, metavar="N", help="threads (default: the CPUs this process may use)")
    add("--overwrite", action="store_true", help="replace the output if it exists")


def convert_listed(
    images: ImageList,
    root: Path,
    arguments: argparse.Namespace,
    source_settings: Mapping[str, Setting] | None = None,
) -> None:
    """Convert image files, their paths relative to `root`, as the options of `add_image_options` say.

    `source_settings` are the source's own, for the manifest; none may be called like one of those options.
    """
    settings = ConversionSettings(
        image=ImageSettings(
            max_size=arguments.max_size,
            short_side=arguments.short_side,
            quality=arguments.quality,
            check=arguments.check,
        ),
        on_bad=arguments.on_bad,
        order=arguments.order,
        seed=arguments.order_seed,
        source=source_settings or {},
    )
    out = arguments.out
    done = convert_images(
        images, root, out, settings, workers=arguments.workers, overwrite=arguments.overwrite
    )
    if done.already:
        print(f"{out}: finished already, from the same images with the same settings")
    else:
        print(
            f"{out}: {done.num_images:,} images of {done.num_classes:,} classes, "
            f"{done.beton_length:,} bytes in {done.seconds:.1f} s; {done.copied:,} copied byte for byte, "
            f"{done.num_images - done.copied:,} re-encoded"
            + (f"; {done.skipped:,} skipped, see {skipped_path(out)}" if done.skipped else "")
        )
    if arguments.json:
        print_json(
            images=done.num_images,
            resumed_from=done.resumed_from,
            skipped=done.skipped,
            seconds=done.seconds,
        )


def add_json_option(command: argparse.ArgumentParser) -> None:
    """Add `--json`, of every source."""
    text = "print a last line of JSON: images, resumed_from, skipped, seconds"
    command.add_argument("--json", action="store_true", help=text)


def print_json(*, images: int, resumed_from: int, skipped: int, seconds: float) -> None:
    """Print the last line of `--json`: images in the output, how many lay there already, rows left out, duration."""
    facts = {
        "images": images,
        "resumed_from": resumed_from,
        "skipped": skipped,
        "seconds": round(seconds, 3),
    }
    print(json.dumps(facts))


def convert_made(
    images: ImageList,
    encoded: Iterable[EncodedImage],
    out: Path,
    *,
    settings: Mapping[str, Setting],
    overwrite: bool,
) -> None:
    """Write images that the source makes itself (small sets, raw pixels), in the order of the list."""
    start = time.perf_counter()
    manifest = write_beton(
        out, images, encoded, settings=settings, overwrite=overwrite, page_size=SMALLEST_PAGE
    )
    print(
        f"{out}: {len(images):,} images of {images.num_classes} classes, "
        f"{manifest.tables.beton_length:,} bytes in {time.perf_counter() - start:.1f} s"
    )


def is_wanted(out: Path, images: ImageList, settings: Mapping[str, Setting], overwrite: bool) -> bool:
    """Whether `out` is still to be made; False, and a line, where it is whole, of this list and settings.

    Raises:
        UserError: it exists, is another file, and `overwrite` is not given; or it cannot be made.
    """
    if not overwrite and out.exists() and manifest_path(out).exists():
        manifest = open_beton(out).manifest
        if manifest and manifest.source.sha256 == images.sha256 and manifest.settings == dict(settings):
            print(f"{out}: finished already, from the same images with the same settings")
            return False
    check_output(out, overwrite)
    return True


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    return _whole_number(text, least=1)


def seed(text: str) -> int:
    """Parse a whole number from 0."""
    return _whole_number(text, least=0)


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least}")
    return int(text)
