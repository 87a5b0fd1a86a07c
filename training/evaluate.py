"""Evaluate a checkpoint on a beton, also under torchrun: python -m training.evaluate --checkpoint FILE --data BETON."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines.beton.reader import BetonFile, open_beton
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool, available_cpus
from pipelines.user_error import UserError
from pipelines.whole_file import check_output, partial_file, publish
from training.accuracy import SHOT_RULES
from training.build import build_eval_loaders, build_image_works, build_seeded_model, read_versions
from training.checkpoint import Checkpoint, load_checkpoint, load_weights
from training.command_line import config_from_dict
from training.config import Config
from training.confusion import Confusions, most_confused, write_confusion
from training.eval_decode import with_eval_decode
from training.evaluation import BatchReader, evaluate, head_figures
from training.evaluation_table import evaluation_table
from training.objectives import Objective, build_objective
from training.process_group import ProcessGroup, join_process_group
from training.rank_messages import run_rank_command
from training.saved_outputs import save_outputs
from training.step import choose_precision

FILES = {
    "--checkpoint": "last.pt or best.pt of a run",
    "--data": "the beton to evaluate on",
    "--train": "the training beton, whose counts say which classes are many, medium and few (default: the one that "
    "the checkpoint names)",
    "--json": "write every figure, those of each class too",
    "--save-outputs": "write both heads' logits, features and labels, as safetensors",
    "--confusion": "write the inference head's confusion matrix, for scipy.sparse.load_npz",
}
"""The options that are files."""
CONFUSIONS_NAMED = 20
"""Pairs of classes in the JSON file; the table shows the first five."""


@dataclass(frozen=True)
class Task:
    """What the command line asks for, opened and checked."""

    options: argparse.Namespace
    checkpoint: Checkpoint
    config: Config
    """The checkpoint's."""
    train: BetonFile
    """Only its counts are used: they say which classes are many, medium and few."""
    data: BetonFile
    objective: Objective


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_rank_command("fasttail-evaluate", lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fasttail-evaluate", description=__doc__)
    for name, text in FILES.items():
        required = name in ("--checkpoint", "--data")
        parser.add_argument(name, required=required, type=Path, metavar="FILE", help=text)
    parser.add_argument(
        "--batch-size", type=int, default=128, metavar="N", help="images at a time in each process (128)"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="that decode; 0: its share")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--decode",
        metavar="WHO",
        help="auto, dali-gpu, dali-cpu, cpu or split:SHARE, as data.decode of a run (default: the checkpoint's where "
        "this device has it, else the device's own)",
    )
    parser.add_argument(
        "--precision", choices=["auto", "float32", "bf16", "fp16"], help="default: the checkpoint's setting"
    )
    return parser


def open_task(options: argparse.Namespace) -> Task:
    """Open checkpoint and betons and check that they fit; raises `UserError` where they do not."""
    for name in ("batch_size", "threads"):
        if getattr(options, name) < (name == "batch_size"):
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: give a larger number")
    for output in (options.json, options.save_outputs, options.confusion):
        if output is not None:
            check_output(output, overwrite=True)  # known before the evaluation, not after
    checkpoint = load_checkpoint(options.checkpoint)
    config = config_from_dict(checkpoint.config, options.checkpoint)
    train_path = options.train or Path(config.data.train)
    if options.train is None and not train_path.exists():
        raise UserError(
            f"{train_path}: the training set that {options.checkpoint} names is not here, and its class counts "
            "say which classes are many and few; give its path with --train"
        )
    train, data = open_beton(train_path), open_beton(options.data)
    if options.train is None and checkpoint.data.get("train", train.digest) != train.digest:
        raise UserError(
            f"{train.path} is another file than {options.checkpoint} was trained on, and the counts of its classes say "
            "which are many and few; give the set it was trained on with --train"
        )
    classes = len(checkpoint.model.get("conventional_head.bias", ()))
    if train.num_classes != classes:
        raise UserError(
            f"{options.checkpoint} tells {classes} classes apart and the training set {train.path} has "
            f"{train.num_classes}; give the set it was trained on with --train"
        )
    if data.num_classes > classes:
        raise UserError(
            f"{options.checkpoint} tells {classes} classes apart and --data {data.path} has "
            f"{data.num_classes}; give images of the classes it was trained on"
        )
    objective = build_objective(config.method, torch.from_numpy(train.counts), config.glmc)
    return Task(options, checkpoint, config, train, data, objective)


def _run(options: argparse.Namespace) -> int:
    task = open_task(options)
    with (
        join_process_group(options.device) as group,
        ThreadPool(options.threads or available_cpus()) as pool,
    ):
        result = evaluate_task(task, group, pool)
        if group.is_main and options.json is not None:
            with partial_file(options.json, overwrite=True) as file:
                file.write((json.dumps(result, indent=1) + "\n").encode())
                publish(file, options.json)
        group.say(evaluation_table(result, task.data.class_names))
        for output in (options.json, options.save_outputs, options.confusion):
            if output is not None:
                group.say(f"Written: {output}")
    return 0


def evaluate_task(task: Task, group: ProcessGroup, pool: ThreadPool) -> dict[str, Any]:
    """Evaluate on all ranks and write outputs and confusions; returns what `--json` writes."""
    options, objective = task.options, task.objective
    model = build_seeded_model(task.config, task.train.num_classes)
    load_weights(model, task.checkpoint, options.checkpoint)
    model = model.to(group.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = choose_precision(options.precision or task.config.run.precision, group.device)
    # The loaders that training would use, with batches of this command's size.
    optim = replace(task.config.optim, batch_size=options.batch_size * group.world_size)
    config = replace(with_eval_decode(task.config, options.decode, group.device), optim=optim)
    ranks = RankSlice(group.rank, group.world_size)
    works = build_image_works(config, ranks, group.device, pool)
    loaders = build_eval_loaders(config, {"test": task.data}, ranks, works)
    confusions = Confusions(objective.inference_head, group)
    readers: list[BatchReader] = [confusions]
    with ExitStack() as files:
        if options.save_outputs is not None:
            metadata = _metadata(task)
            saved = save_outputs(options.save_outputs, model, task.data.num_images, group, metadata)
            readers.append(files.enter_context(saved))
        autocast = torch.autocast(group.device.type, precision, enabled=precision != torch.float32)
        counts = evaluate(model, loaders["test"], objective.trained_heads, group, autocast, readers)
    heads = {head: head_figures(sums, task.train.counts) for head, sums in counts.heads.items()}
    if any(math.isnan(figures["calibration_error"]) for figures in heads.values()):
        raise UserError(f"{options.checkpoint}: its logits are not finite numbers; use an earlier checkpoint")
    matrix = confusions.matrix()
    confused: Sequence[tuple[int, int, int]] = ()
    if matrix is not None:
        confused = most_confused(matrix, CONFUSIONS_NAMED)
        if options.confusion is not None:
            write_confusion(matrix, options.confusion)
    return {
        **_metadata(task),
        "images": task.data.num_images,
        "classes": task.train.num_classes,
        "step": task.checkpoint.step,
        "decode": works.decode.text,
        "precision": str(precision).removeprefix("torch."),
        "shot_rules": {name: rule.text for name, rule in SHOT_RULES.items()},
        "train_counts": task.train.counts.tolist(),
        "heads": heads,
        "projection_spread": counts.projection_spread if "projection" in objective.trained_layers else None,
        "most_confused": confused,
        "versions": read_versions(),
    }


def _metadata(task: Task) -> dict[str, str]:
    """What a file of results must say to be understood later."""
    best = task.checkpoint.best
    chosen = ""
    if task.options.checkpoint.name == "best.pt" and best is not None:
        chosen = f"epoch {best['epoch']}, chosen as the best on data.{best['split']}"
        if best["split"] == "test":
            chosen += ", the test set itself, as the literature does: its accuracy there is no fair estimate"
    return {
        "checkpoint": str(task.options.checkpoint),
        "chosen": chosen,
        "data": str(task.data.path),
        "train": str(task.train.path),
        "method": task.config.method,
        "inference_head": task.objective.inference_head,
        "trained_heads": ",".join(task.objective.trained_heads),
    }


if __name__ == "__main__":
    sys.exit(main())
