"""`report`: join the result files of several stages into one, with the table and a picture for each stage.

All of them must come from one machine, one commit and the same versions; otherwise the figures of one file could not
stand beside those of another. The file of a stage that was ended in its middle holds what it had measured, and says so.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.machine import Facts
from benchmarks.measurement import Row, check_rows
from benchmarks.progress import UNFINISHED
from benchmarks.results import Results, draw, read_json, table, write_json
from pipelines.user_error import UserError

STAGES = (
    *("tests", "decode", "loader", "mix", "peers", "step", "settings", "cifar", "runs"),
    *("convert", "scaling"),
)
"""Names of the files, .json; `settings` is the second half of `step`."""
DRAWN = (
    "pairs_per_second",
    "forward_images_per_second",
    "ratio_to_device",
    "source_decodes_per_second",
    "share_of_copy_bandwidth",
    "share_of_matrix_peak",
    "microseconds_per_batch",
    "training_seconds",
)
"""Metrics of the pictures, where a stage has them."""


def add_parser(commands: Any) -> None:
    """Add the subcommand to those of tools/benchmark.py."""
    parser = commands.add_parser(
        "report",
        help="join the result files of a machine into one",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where tests.json, decode.json, loader.json and so on lie")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results"),
        metavar="DIR",
        help="folder for MACHINE-DATE.json and the pictures (default: %(default)s)",
    )
    parser.set_defaults(report=run)


def run(options: argparse.Namespace) -> None:
    """Write the joined file, the table beside it, and the pictures."""
    stages = {
        name: read_json(options.folder / f"{name}.json")
        for name in STAGES
        if (options.folder / f"{name}.json").exists()
    }
    if not stages:
        raise UserError(f"{options.folder}: holds none of {', '.join(f'{name}.json' for name in STAGES)}")
    check_one_machine(options.folder, stages)
    rows = joined_rows({name: content["rows"] for name, content in stages.items()})
    check_rows(rows)
    first = next(iter(stages.values()))
    machine: Facts = first["machine"]
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"{machine_name(machine)}-{datetime.now(UTC):%Y-%m-%d}"
    path = options.out / f"{stem}.json"
    versions = {name: version for content in stages.values() for name, version in content["versions"].items()}
    write_json(path, rows, machine, versions, first["commit"])
    text = table(rows)
    path.with_suffix(".txt").write_text(f"{text}\n", encoding="utf-8")
    print(f"{text}\n\nFigures: {path}\nTable: {path.with_suffix('.txt')}")
    for row in rows:
        if row.metric == UNFINISHED:
            print(f"{row.name} was ended before its time: its rows are those that it had measured by then.")
    for name, content in stages.items():
        drawn = [metric for metric in DRAWN if any(row.metric == metric for row in content["rows"])]
        if drawn:
            results = Results(title=f"{name} on {stem}", rows=content["rows"], drawn=drawn)
            print(f"Picture: {draw(results, machine, options.out / f'{stem}-{name}.png')}")


def check_one_machine(folder: Path, stages: dict[str, dict[str, Any]]) -> None:
    """Refuse files of different machines, versions or commits.

    A package that was there for one stage only, as where DALI came with a later call, made no difference to the other.
    """
    for (name, one), (other, content) in combinations(stages.items(), 2):
        for key in ("machine", "versions", "commit"):
            a, b = _lasting(one[key]), _lasting(content[key])
            if key == "versions":
                a, b = ({each: of[each] for each in a.keys() & b.keys()} for of in (a, b))
            if a != b:
                raise UserError(
                    f"{folder}: {name}.json and {other}.json differ in {key}; measure both again on one machine "
                    "at one commit"
                )


def joined_rows(stages: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Leave out what two stages say alike; what they say differently gets the stage's name in front.

    `convert` measures with more photographs than the others, say, so their sizes are `convert/photographs` and
    `loader/photographs`; torchvision-v2 mixes in `mix`, and crops and flips in `peers`.
    """
    said = dict.fromkeys(row for rows in stages.values() for row in rows)
    times = Counter((row.name, row.metric) for row in said)
    augmentations = Counter(name for name, _ in {(row.name, row.augmentation) for row in said})
    ambiguous = {name for (name, _), count in times.items() if count > 1 or augmentations[name] > 1}
    named = [
        replace(row, name=f"{stage}/{row.name}") if row.name in ambiguous else row
        for stage, rows in stages.items()
        for row in rows
    ]
    return list(dict.fromkeys(named))


def machine_name(machine: Facts) -> str:
    """The GPU, or the cores and the CPU: `nvidia-h200`, `2-core-amd-epyc`."""
    name = machine["gpu"] or f"{machine['cores']}-core-{machine['cpu']}"
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")


def _lasting(value: Any) -> Any:
    """Without what changes from minute to minute; a virtual machine's memory may grow as it is used."""
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key not in ("load_average", "memory_gib")}
    return value
