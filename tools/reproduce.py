"""Train methods over seeds on the embedded set and say what they reach: every figure in the docs comes from here.

Each run is a process of its own, the command that a user would type. A finished run is read, not run again; an
interrupted one goes on where its last checkpoint is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pipelines.user_error import UserError, run_command
from pipelines.whole_file import partial_file, publish
from tools.child_processes import run_module
from tools.seed_statistics import mean_text, paired_interval, parse_seeds
from training.command_line import build_parser, parse_config
from training.run_folder import changed_settings
from training.run_record import COLUMNS, read_run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
METHODS = {
    "ce": "plain cross-entropy",
    "glmc": "GLMC",
    "mix": "GLMC without re-weighting and without the consistency loss: what mixing alone gives",
}
"""Name in --methods -> what it is; each has configs/digits_lt_NAME.yaml."""

Row = dict[str, Any]


@dataclass(frozen=True)
class RunToMake:
    """One method with one seed."""

    method: str
    seed: int
    folder: Path
    epochs: int | None
    """None leaves them to the configuration."""

    @property
    def arguments(self) -> list[str]:
        """Of `python -m training.train`."""
        arguments = ["--config", str(CONFIGS / f"digits_lt_{self.method}.yaml"), f"--run.seed={self.seed}"]
        arguments += [f"--run.folder={self.folder}"]
        return arguments if self.epochs is None else [*arguments, f"--optim.epochs={self.epochs}"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("reproduce", lambda: run(arguments))


def run(arguments: list[str] | None) -> int:
    """Make the data, the runs, the JSON file and the table."""
    options = _parser().parse_args(arguments)
    methods, seeds = parse_methods(options.methods), parse_seeds(options.seeds)
    if options.epochs is not None and options.epochs < 1:
        raise UserError(f"--epochs {options.epochs}: give 1 or more")
    with partial_file(options.json, overwrite=True):
        pass  # an output that cannot be written is known before hours of training
    run_module("tools.convert_datasets", ["digits", "--out", "data/digits_lt"])
    rows: dict[tuple[str, int], Row] = {}
    for seed, method in product(seeds, methods):  # seed by seed: pairs are whole early
        folder = options.folder / f"digits_lt_{method}_seed{seed}"
        rows[method, seed] = finished_row(RunToMake(method, seed, folder, options.epochs))
        write_rows(
            sorted(rows.values(), key=lambda row: (methods.index(row["method"]), row["seed"])), options.json
        )
    print("\n" + "\n".join(describe(list(rows.values()), methods)))
    print(f"Rows: {options.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reproduce", description=__doc__)
    parser.add_argument(
        "dataset", choices=["digits"], help="Digits-LT, made in data/digits_lt if it is not there"
    )
    known = "; ".join(f"{name}: {text}" for name, text in METHODS.items())
    parser.add_argument("--methods", default=",".join(METHODS), metavar="A,B", help=f"{known} (default: all)")
    parser.add_argument("--seeds", default="0,1,2", metavar="0,1", help="seeds of the runs (default: 0,1,2)")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="holds a folder a run (default: runs/reproduce)",
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="instead of the configurations' (for a quick look)"
    )
    return parser


def parse_methods(text: str) -> list[str]:
    """`ce,glmc` -> names in `METHODS`, each once."""
    methods = text.split(",")
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--methods {text}: {method!r} is not known; choose of {', '.join(METHODS)}")
    if len(set(methods)) < len(methods):
        raise UserError(f"--methods {text}: name each method once")
    return methods


def finished_row(wanted: RunToMake) -> Row:
    """Train `wanted` unless it is finished, and read its row; refuses a finished run with other settings."""
    if (wanted.folder / "summary.json").exists():
        _check_settings(wanted)
        print(f"{wanted.folder}: finished before", flush=True)
    else:
        print(f"{wanted.folder}: {METHODS[wanted.method]}, seed {wanted.seed}", flush=True)
        run_module("training.train", wanted.arguments)
    accuracy = read_run(wanted.folder).summary["accuracy"]
    assert accuracy is not None, "the configurations name data.test"
    return {"method": wanted.method, "seed": wanted.seed, **{name: accuracy[name] for name in COLUMNS}}


def _check_settings(wanted: RunToMake) -> None:
    config, _ = parse_config(build_parser("reproduce", ""), wanted.arguments)
    differences = changed_settings(config, read_run(wanted.folder).config)
    if differences:
        raise UserError(
            f"{wanted.folder} holds a run with other settings: {'; '.join(differences)}. Use another --folder, "
            "or remove it"
        )


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write the JSON file, whole or not at all."""
    with partial_file(path, overwrite=True) as file:
        file.write((json.dumps({"rows": list(rows)}, indent=1) + "\n").encode())
        publish(file, path)


def describe(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """The lines of the table: mean ± standard deviation of each method, then the differences from the baseline.

    The baseline is ce, or the first method where ce is not among them.
    """
    seeds = sorted({row["seed"] for row in rows})
    values = {
        (method, name): [
            row[name] for seed in seeds for row in rows if (row["method"], row["seed"]) == (method, seed)
        ]
        for method, name in product(methods, COLUMNS)
    }
    lines = [f"Top-1 accuracy in percent, last epoch, mean ± standard deviation over {len(seeds)} seed(s)"]
    lines.append(f"{'method':<8}" + "".join(f"{name.capitalize():>14}" for name in COLUMNS))
    for method in methods:
        lines.append(f"{method:<8}" + "".join(f"{mean_text(values[method, name]):>14}" for name in COLUMNS))
    baseline = "ce" if "ce" in methods else methods[0]
    for method in methods:
        if method != baseline and len(seeds) >= 2:
            found = paired_interval(values[method, "all"], values[baseline, "all"])
            lines.append(
                f"{method} - {baseline}, All: {100 * found.mean:+.1f} points, paired 95 % interval "
                f"{100 * found.low:+.1f} to {100 * found.high:+.1f} (Student's t, {len(seeds)} seeds)"
            )
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
