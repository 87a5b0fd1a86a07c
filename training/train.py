"""The entry point: `python -m training.train --config FILE`, under torchrun for more than one process."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from pipelines.thread_pool import ThreadPool, available_cpus
from training.build import build_trainer, open_betons
from training.checkpoint_writer import CheckpointWriter
from training.command_line import build_parser, config_text, parse_config, write_config
from training.evaluation import evaluate
from training.generation import is_started_again, note_first_start
from training.loop import Trainer
from training.process_group import ProcessGroup, join_process_group
from training.rank_messages import rank_name, run_rank_command
from training.report import write_report
from training.run_folder import RunFolder
from training.run_lock import locked_folder
from training.run_log import FolderLog
from training.saved_outputs import save_outputs
from training.stop_signals import leave_at_once
from training.summary import describe, write_summary


def main(arguments: list[str] | None = None) -> int:
    """Train the run that the command line describes, or go on with it; returns the exit status."""
    with leave_at_once():
        return run_rank_command("fasttail-train", lambda: _train(arguments))


def _train(arguments: list[str] | None) -> int:
    parser = build_parser("fasttail-train", "Train on a long-tailed beton, evaluate, and draw the report.")
    parser.add_argument("--restart", action="store_true", help="begin anew in a folder that holds a run")
    parser.add_argument(
        "--save-outputs",
        action="store_true",
        help="in the end, write both heads' logits, features and labels of data.val and data.test",
    )
    config, flags = parse_config(parser, arguments)
    betons = open_betons(config)
    folder = RunFolder(Path(config.run.folder))
    with (
        join_process_group(config.run.device) as group,
        ThreadPool(config.data.threads or available_cpus()) as pool,
        ExitStack() as held,
    ):
        group.on_main(lambda: take(folder, held))
        anew = flags.restart and not is_repeated(group)
        trainer = build_trainer(config, betons, folder, group, pool, anew=anew)
        if trainer.is_finished and folder.summary.exists() and folder.report.exists():
            outputs = "; training.evaluate saves its outputs" if flags.save_outputs else ""
            group.say(f"{folder.path} holds this run, finished; --restart begins it anew{outputs}")
            return 0
        if group.is_main:
            if anew:
                folder.clear()  # only now, when nothing of this start can be refused any more
                note_first_start()
            write_config(config, folder.config)
            group.say(config_text(config))
            if who := rank_name():
                group.say(
                    f"This is the log of {who}; the others write errors and warnings alone, with their names"
                )
            trainer.log = FolderLog(
                folder.path, first_step=trainer.first_step, total_steps=trainer.loader.total_steps
            )
            trainer.writer = CheckpointWriter(
                folder,
                minutes=config.checkpoint.minutes,
                keep=config.checkpoint.keep,
                first_step=trainer.first_step,
            )
        if status := trainer.train():
            return status
        if flags.save_outputs:
            save_run_outputs(trainer)
        group.on_main(lambda: write_results(trainer))
    return 0


def is_repeated(group: ProcessGroup) -> bool:
    """Whether an earlier start of the same job has obeyed --restart, so that this one is to go on; on all ranks."""
    again = bool(group.of_main(group.is_main and is_started_again()))
    if again:
        group.say("This job was started again, and goes on: its first start has obeyed --restart")
    return again


def write_results(trainer: Trainer) -> None:
    """Write the summary and the report of a run that has come to its end, and say what they hold."""
    summary = write_summary(trainer)
    pictures = write_report(trainer.folder.path)
    trainer.group.say(describe(summary, trainer.folder, pictures))


def take(folder: RunFolder, held: ExitStack) -> None:
    """Make the run's folder, and keep other trainings out of it until `held` is closed."""
    folder.create()
    held.enter_context(locked_folder(folder.path))


def save_run_outputs(trainer: Trainer) -> None:
    """Write `outputs_SPLIT.safetensors` of every evaluation set into the run's folder; all ranks take part."""
    objective = trainer.step.objective
    metadata = {
        "method": objective.name,
        "inference_head": objective.inference_head,
        "trained_heads": ",".join(objective.trained_heads),
    }
    for split, loader in trainer.eval_loaders.items():
        path, images = trainer.folder.outputs(split), loader.beton.num_images
        named = {**metadata, "data": str(loader.beton.path)}
        with save_outputs(path, trainer.model, images, trainer.group, named) as file:
            heads, autocast = objective.trained_heads, trainer.step.autocast()
            evaluate(trainer.model, loader, heads, trainer.group, autocast, [file])


if __name__ == "__main__":
    sys.exit(main())
