"""Go through what a user of ImageNet-LT or iNaturalist 2018 types, at the true number of images, in tiny pictures.

JPEG files at the paths of the lists, conversion, verification, two epochs of the set's configuration on two ranks, of
which one is killed, evaluation, tables; then time and memory of each part. All of it lies in a temporary folder that is
removed in the end.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.machine import commit, machine
from benchmarks.rehearsal import SCALED_DOWN, Rehearsal, table
from benchmarks.rehearsal_set import SETS, write_lists
from benchmarks.results import machine_line
from pipelines.user_error import UserError, run_command

LISTS = Path(__file__).resolve().parents[2] / "shared" / "data"
BYTES_AN_IMAGE = 8 << 10
"""On the disk, at most: a file of one or two blocks, its share of folders, its bytes in the beton."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 where a part of the rehearsal failed."""
    return run_command("rehearsal", lambda: run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rehearsal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", choices=tuple(SETS), help="the published set")
    add(
        "--scale",
        type=_share,
        default=1.0,
        metavar="S",
        help="share of each class, for a quick try (default: 1)",
    )
    add(
        "--lists",
        type=Path,
        default=LISTS,
        metavar="DIR",
        help="folder of the published lists; made where they are not there (default: %(default)s)",
    )
    add(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="where the temporary folder goes (default: %(default)s)",
    )
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0 and up to 1")
    return share


def run(options: argparse.Namespace) -> int:
    """Rehearse and print; returns the exit status."""
    start, dataset = time.perf_counter(), options.dataset
    where = f"{machine_line(machine())}; commit {commit()}"  # now: while it runs, files may change
    try:
        with scratch_folder(options.folder) as folder:
            splits = write_lists(dataset, options.lists, options.scale, folder)
            check_space(folder, sum(split.num_rows for split in splits))
            for split in splits:
                print(
                    f"{split.name}: {split.num_rows:,} rows of {len(split.counts):,} classes, {split.origin}"
                )
            rehearsal = Rehearsal(dataset, splits, folder)
            rehearsal.go()
    except RuntimeError as error:
        print(f"rehearsal: {error}", file=sys.stderr)
        return 1
    changes = ", ".join(f"{name} {value}" for name, value in SCALED_DOWN.items())
    print(f"\n{table(rehearsal.parts)}")
    print(f"In all {time.perf_counter() - start:,.1f} s, writing the lists and removing everything included.")
    print(f"configs/{SETS[dataset].config} with {changes}")
    print(where)
    return 0


def check_space(folder: Path, images: int) -> None:
    """Refuse a disk that is too small before minutes of writing."""
    needed, free = images * BYTES_AN_IMAGE, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"--folder {folder.parent}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; give "
            "another folder, or a smaller --scale"
        )


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed with all that is in it, also after Ctrl-C or SIGTERM.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="fasttail-rehearsal-", dir=parent))
    except OSError as error:
        raise UserError(f"--folder {parent}: cannot be written ({error.strerror}); choose another") from None
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield folder
    finally:
        impatience = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave files behind
        print(f"Removing {folder}", flush=True)
        shutil.rmtree(folder)
        signal.signal(signal.SIGINT, impatience)
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
