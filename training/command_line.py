"""YAML files and `--section.field value` -> one checked `Config`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from pipelines.user_error import UserError
from training.config import Config
from training.disk_errors import disk_errors

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def build_parser(prog: str, description: str) -> ArgumentParser:
    """A parser of every field of `Config`; its `--help` is made from the text under each field."""
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with these settings; later ones win")
    parser.add_class_arguments(Config)
    return parser


def parse_config(parser: ArgumentParser, arguments: list[str] | None) -> tuple[Config, argparse.Namespace]:
    """The configuration, and the parser's other arguments; a mistake is a `UserError` in one sentence."""
    try:
        parsed = parser.parse_args(arguments)
        built = parser.instantiate(parsed)
    except argparse.ArgumentError as error:
        raise UserError(f"{_one_line(str(error))} (see --help)") from None
    except UnicodeDecodeError:
        raise UserError("a file given with --config is not UTF-8 text; give a YAML file") from None
    settings = {name: built[name] for name in Config.__dataclass_fields__}
    return Config(**settings), argparse.Namespace(
        **{k: v for k, v in vars(built).items() if k not in settings}
    )


def config_from_dict(settings: dict[str, Any], source: Path) -> Config:
    """The configuration that a checkpoint holds (`Config.to_dict`); settings that it lacks have their defaults.

    Raises `UserError`, naming `source`, for settings that this version does not know.
    """
    parser = build_parser("", "")
    try:
        built = parser.instantiate(parser.parse_object(settings))
    except argparse.ArgumentError as error:
        raise UserError(
            f"{source} was written by another version of fasttail ({_one_line(str(error))}); use that version"
        ) from None
    return Config(**{name: built[name] for name in Config.__dataclass_fields__})


def write_config(config: Config, path: Path) -> None:
    """Save the resolved configuration so that `--config PATH` reads it back."""
    with disk_errors(path, "the configuration"):
        path.write_text(config_text(config), encoding="utf-8")


def config_text(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


def _one_line(message: str) -> str:
    return " ".join(message.split()).rstrip(".")
