"""Measure this machine: a subcommand for each benchmark; each prints a table and draws a picture.

python tools/benchmark.py peers --json peers.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from tempfile import TemporaryFile

from benchmarks import cifar, convert, decode, loader, mix, peers, report, scaling, step
from benchmarks.command import Command, add_shared_options
from benchmarks.machine import Facts, commit, machine, use_cores, versions
from benchmarks.measurement import Row
from benchmarks.progress import Progress, unfinished, write_nothing
from benchmarks.results import draw, table, write_json
from pipelines.user_error import UserError, run_command

COMMANDS: tuple[Command, ...] = (
    peers.COMMAND,
    loader.COMMAND,
    decode.COMMAND,
    mix.COMMAND,
    step.COMMAND,
    cifar.COMMAND,
    convert.COMMAND,
    scaling.COMMAND,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; a mistake of the user's is one line on stderr."""
    return run_command("fasttail-bench", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    options = _parser().parse_args(arguments)
    if "report" in options:
        options.report(options)
        return 0
    command: Command = options.command
    options.cores = use_cores(options.cores)
    about = machine()
    _prepare_outputs(options)
    write = _writer(options, about)
    options.progress = Progress(
        lambda rows: write([*rows, unfinished(command.name)]), getattr(options, "minutes", None)
    )
    results = command.run(options)
    write(results.rows)
    print(f"\n{table(results.rows)}\n")
    for note in results.notes:
        print(note)
    if options.json:
        print(f"Figures: {options.json}")
    print(f"Picture: {draw(results, about, options.picture)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fasttail-bench", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="BENCHMARK", title="benchmarks")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_shared_options(sub, command)
        if command.add_options:
            command.add_options(sub)
        sub.set_defaults(command=command)
    report.add_parser(commands)
    return parser


def _writer(options: argparse.Namespace, about: Facts) -> Callable[[Sequence[Row]], None]:
    """Return what replaces the JSON file."""
    if options.json is None:
        return write_nothing
    of_packages, at = versions(), commit()
    return lambda rows: write_json(options.json, rows, about, of_packages, at)


def _prepare_outputs(options: argparse.Namespace) -> None:
    """Make the folders of the outputs now: one that cannot be written to is known before minutes of measuring."""
    for name, path in (("--json", options.json), ("--picture", options.picture)):
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise UserError(f"{name} {path}: cannot be written ({error.strerror}); choose another") from None


if __name__ == "__main__":
    raise SystemExit(main())
