"""The entry point: `python -m training.train --config FILE`, under torchrun for more than one process."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from pipelines.beton_reader import BetonFile, open_beton
from pipelines.eval_loader import EvalLoader
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool, available_cpus
from pipelines.train_loader import PairedLoader, PlainLoader, TrainLoader
from pipelines.user_error import UserError, run_command
from training.checkpoint import load_weights
from training.command_line import build_parser, config_text, parse_config, write_config
from training.config import Config
from training.loop import Clock, Trainer
from training.model import LongTailModel, build_model
from training.objectives import Objective, build_objective
from training.process_group import ProcessGroup, join_process_group
from training.report import write_report
from training.run_folder import RunFolder
from training.run_log import FolderLog, RunLog, SilentLog
from training.step import TrainStep, choose_precision


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("fasttail-train", lambda: run(arguments))


def run(arguments: list[str] | None) -> int:
    """Train the run that the command line describes, or go on with it."""
    parser = build_parser("fasttail-train", "Train on a long-tailed beton, evaluate, and draw the report.")
    parser.add_argument("--restart", action="store_true", help="begin anew in a folder that holds a run")
    config, flags = parse_config(parser, arguments)
    with join_process_group(config.run.device) as group:
        folder = RunFolder(Path(config.run.folder))
        if group.is_main:
            folder.create()
            if flags.restart:
                folder.clear()
        group.wait_for_all()
        with ThreadPool(config.data.threads or available_cpus()) as pool:
            train_in(folder, config, group, pool)
    return 0
