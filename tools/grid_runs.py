"""The runs of a grid: every combination of configurations, varied settings and seeds, each checked before it starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from pipelines.beton.reader import open_beton
from pipelines.user_error import UserError
from training.command_line import build_parser, parse_config
from training.config import Config
from training.run_folder import RunFolder, changed_settings
from training.run_record import read_run

OWN = {
    "run.seed": "give --seeds",
    "run.folder": "give --out, which holds a folder a run",
    "config": "give --config more than once",
}
"""Settings that a grid makes itself, and what to do instead."""
LONGEST_NAME = 255
"""Bytes, of a file on Linux."""
Cell = tuple[tuple[str, str], ...]
"""What is varied and its value; runs of one cell differ by seed only."""


@dataclass(frozen=True)
class GridRun:
    """One training."""

    cell: Cell
    seed: int
    folder: RunFolder
    arguments: tuple[str, ...]
    """Of `python -m training.train`."""
    config: Config

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.path.name

    @property
    def log(self) -> Path:
        """What it says goes here; beside the folder, which holds only what a run of its own would."""
        return self.folder.path.with_name(f"{self.name}.log")

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.folder.summary.exists()


def parse_axis(text: str) -> tuple[str, list[str]]:
    """`optim.lr=0.05,0.1` -> name and values; a comma inside brackets does not separate.

    Raises `UserError` where there is no value, one twice, or the setting is one that the grid makes itself.
    """
    name, equals, values = text.partition("=")
    name = name.removeprefix("--")
    parts = re.split(r",(?![^\[(]*[\])])", values)
    if not (name and equals and all(parts)):
        raise UserError(f"--vary {text}: give a setting and its values, as optim.lr=0.05,0.1")
    if name in OWN:
        raise UserError(f"--vary {name}: {OWN[name]}")
    if len(set(parts)) < len(parts):
        raise UserError(f"--vary {text}: name each value once")
    return name, parts


def plan_runs(
    configs: Sequence[str], axes: Sequence[str], seeds: Sequence[int], settings: Sequence[str], out: Path
) -> list[GridRun]:
    """Make every run, seed by seed, so that all cells have one early.

    Args:
        configs: YAML files; more than one are an axis.
        axes: as for `parse_axis`.
        settings: command line that all runs have in common, as `--optim.epochs=3`.
        out: holds a folder a run.

    Raises:
        UserError: a setting is wrong in some run, no accuracy would come of it, a beton is missing, or a folder
            holds a run with other settings.
    """
    _check_settings(settings)
    parsed = [parse_axis(axis) for axis in axes]
    names = [name for name, _ in parsed]
    if len(set(names)) < len(names):
        raise UserError(f"--vary {', '.join(names)}: name each setting once")
    columns = [[("config", config) for config in _each_once(configs)]] if len(configs) > 1 else []
    columns += [[(name, value) for value in values] for name, values in parsed]
    cells: list[Cell] = list(product(*columns))
    runs = [_run(cell, seed, configs[0], settings, out) for seed, cell in product(seeds, cells)]
    if len({run.name for run in runs}) < len(runs):
        raise UserError(
            f"two runs would have one folder in {out}: name the configurations or values differently"
        )
    _check_names(runs)
    _check_betons(runs)
    for run in runs:
        _check_folder(run)
    return runs


def _each_once(configs: Sequence[str]) -> Sequence[str]:
    if len(set(configs)) < len(configs):
        raise UserError(f"--config {', '.join(configs)}: name each file once")
    return configs


def _check_settings(settings: Sequence[str]) -> None:
    for setting in settings:
        if not setting.startswith("--") or "=" not in setting:
            raise UserError(f"{setting!r} after --: write settings for all runs as --optim.epochs=3")
        name = setting.removeprefix("--").partition("=")[0]
        if name in OWN:
            raise UserError(f"--{name} after --: {OWN[name]}")


def _run(cell: Cell, seed: int, config: str, settings: Sequence[str], out: Path) -> GridRun:
    varied = dict(cell)
    config = varied.pop("config", config)
    named = [f"config={Path(config).stem}"] if len(varied) < len(cell) else []
    parts = [*named, *(f"{name}={value}" for name, value in varied.items()), f"seed={seed}"]
    folder = RunFolder(out / re.sub(r"[^\w.,=+\-\[\]]", "_", ",".join(parts)))
    arguments = ["--config", config, *settings, *(f"--{name}={value}" for name, value in varied.items())]
    arguments += [f"--run.seed={seed}", f"--run.folder={folder.path}"]
    try:
        parsed, _ = parse_config(build_parser("grid", ""), arguments)
    except UserError as error:
        raise UserError(f"{', '.join(parts)}: {error}") from None
    if parsed.data.test is None:
        raise UserError(f"{', '.join(parts)}: the table shows the accuracy on data.test, so give one")
    return GridRun(cell, seed, folder, tuple(arguments), parsed)


def _check_names(runs: Sequence[GridRun]) -> None:
    for run in runs:
        if len(run.log.name.encode()) > LONGEST_NAME:
            raise UserError(
                f"{run.name}: a folder cannot have so long a name; put what all runs have in common behind --, "
                "or into the configuration"
            )


def _check_betons(runs: Sequence[GridRun]) -> None:
    """Open every beton once: a missing one is known before hours of training."""
    data = [run.config.data for run in runs]
    paths = {path for each in data for path in (each.train, each.val, each.test) if path is not None}
    for path in sorted(paths):
        open_beton(path)


def _check_folder(run: GridRun) -> None:
    """Refuse a folder that holds a run with other settings, and a finished run that cannot be read."""
    if run.is_finished:
        read_run(run.folder.path)
    if not run.folder.config.exists():
        return
    try:
        saved = yaml.safe_load(run.folder.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        saved = None
    if not isinstance(saved, dict):
        raise UserError(f"{run.folder.config}: cannot be read; remove the folder {run.folder.path}")
    if differences := changed_settings(run.config, saved):
        raise UserError(
            f"{run.folder.path} holds a run with other settings: {'; '.join(differences)}. Use another --out, or "
            "remove it"
        )
