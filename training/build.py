"""Settings -> live objects: a run that is ready to go, at the step where its last checkpoint left it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pipelines.beton.reader import BetonFile, open_beton
from pipelines.beton.staging import stage_beton, stage_folder
from pipelines.dali_graph import DaliShape
from pipelines.eval_loader import EvalLoader
from pipelines.open_images import ImageWorks, open_image_works, parse_decode
from pipelines.rank_slice import RankSlice
from pipelines.resident.loader import ResidentLoader
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader, PlainLoader, TrainLoader
from pipelines.user_error import UserError
from training.checkpoint import Checkpoint, load_weights
from training.clock import Clock
from training.config import Config
from training.cuda_graph import GraphStep, check_graph
from training.fast_kernels import (
    compile_mode,
    compile_model,
    measure_cudnn_kernels,
    use_deterministic_kernels,
)
from training.loop import Trainer
from training.model import LongTailModel, build_model
from training.objectives import METHODS, Objective, build_objective
from training.optimizer import build_sgd
from training.process_group import ProcessGroup
from training.run_folder import RunFolder
from training.run_log import SilentLog
from training.step import TrainStep, choose_precision


def open_betons(config: Config) -> dict[str, BetonFile]:
    """The betons by split: train, and val and test where the configuration names them; they must agree.

    Where `data.stage` says so they are copies on this machine; the first process of a node makes them.
    """
    betons = {split: open_beton(path) for split, path in beton_paths(config).items()}
    classes = betons["train"].num_classes
    for split, beton in betons.items():
        if beton.num_classes > classes:
            raise UserError(
                f"data.{split} {beton.path} has {beton.num_classes} classes and data.train "
                f"{betons['train'].path} has {classes}: they must be of one set"
            )
    return betons


def beton_paths(config: Config) -> dict[str, Path]:
    """Where the betons of a configuration are to be read, by split; stages them."""
    data = config.data
    named = {"train": data.train, "val": data.val, "test": data.test}
    paths = {split: Path(path) for split, path in named.items() if path is not None}
    if data.stage == "none":
        return paths
    folder = stage_folder(data.stage, data.stage_folder)
    return {split: stage_beton(path, folder) for split, path in paths.items()}


def build_trainer(
    config: Config,
    betons: dict[str, BetonFile],
    folder: RunFolder,
    group: ProcessGroup,
    pool: ThreadPool,
    *,
    anew: bool,
) -> Trainer:
    """Everything that a run needs, at the step where its last checkpoint left it, or at step 0 if `anew`."""
    train = betons["train"]
    objective = build_objective(config.method, torch.from_numpy(train.counts).to(group.device), config.glmc)
    if config.run.deterministic:
        use_deterministic_kernels()
    measure_cudnn_kernels(group.device)
    model = build_placed_model(config, train.num_classes, group)
    model.train_layers(objective.trained_layers)
    checkpoint = None if anew else checkpoint_of_all(config, betons, folder, group)
    if checkpoint is not None:
        load_weights(model, checkpoint, folder.last)
    step = build_step(config, model, objective, group)
    if checkpoint is not None:
        step.optimizer.load_state_dict(checkpoint.optimizer)
        step.loss_scale.load_state_dict(checkpoint.scaler)
        step.guard.in_a_row.copy_(checkpoint.bad_in_a_row)
    ranks = RankSlice(group.rank, group.world_size)
    works = build_image_works(config, ranks, group.device, pool)
    loader = build_loader(config, train, ranks, works)
    trainer = Trainer(
        config=config,
        group=group,
        folder=folder,
        model=model,
        step=step,
        loader=loader,
        eval_loaders=build_eval_loaders(config, betons, ranks, works),
        betons=betons,
        log=SilentLog(),
        clock=Clock(checkpoint.seconds if checkpoint else 0.0),
        versions=read_versions(),
        first_step=checkpoint.step if checkpoint else 0,
        last=checkpoint.last if checkpoint else None,
        best=checkpoint.best if checkpoint else None,
    )
    if checkpoint is not None and checkpoint.metrics:
        trainer.metrics.load_state_dict(checkpoint.metrics)
    return trainer


def checkpoint_of_all(
    config: Config, betons: dict[str, BetonFile], folder: RunFolder, group: ProcessGroup
) -> Checkpoint | None:
    """What the run goes on from, None for a new one: rank 0 chooses, and the others must read the same."""
    chosen: Checkpoint | None = None

    def choose() -> None:
        nonlocal chosen
        chosen = folder.checkpoint_to_continue(config, betons, group.device)

    group.on_main(choose)
    step = group.of_main(-1 if chosen is None else chosen.step)
    return chosen if group.is_main or step < 0 else folder.checkpoint_of_step(step, group.device)


def build_seeded_model(config: Config, num_classes: int) -> LongTailModel:
    """The model with initial weights that depend on `run.seed` alone; PyTorch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        settings = config.model
        return build_model(settings.backbone, num_classes, settings.width, settings.projection_dim)


def build_placed_model(config: Config, num_classes: int, group: ProcessGroup) -> LongTailModel:
    """The same on the run's device, channels-last, with the BatchNorm layers that the run asks for."""
    model = build_seeded_model(config, num_classes)
    if config.model.sync_batchnorm:
        model = group.share_batch_statistics(model)
    placed: LongTailModel = model.to(group.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def build_step(config: Config, model: LongTailModel, objective: Objective, group: ProcessGroup) -> TrainStep:
    """The step with its optimizer, which holds only the parameters that the objective trains."""
    optim, graph = config.optim, config.run.cuda_graph
    precision = choose_precision(config.run.precision, group.device)
    check_micro_batches(config, group.world_size)
    if graph:
        check_graph(config, group, precision)
    return (GraphStep if graph else TrainStep)(
        model=group.wrap(compile_model(model, compile_mode(config.run.compile, group.device))),
        objective=objective,
        optimizer=build_sgd(
            model.parameters(),
            optim.implementation,
            precision,
            lr=torch.tensor(config.base_lr, device=group.device) if graph else config.base_lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
        ),
        passes=1 if config.model.joint_forward else objective.views,
        device=group.device,
        precision=precision,
        micro_batches=optim.accumulate,
        max_bad_steps=config.run.max_bad_steps,
    )


def check_micro_batches(config: Config, world_size: int) -> None:
    """Refuse a local batch that does not divide into equal micro-batches, whose means would not add up."""
    local_batch = RankSlice(0, world_size).local_batch(config.optim.batch_size)
    if local_batch % config.optim.accumulate:
        raise UserError(
            f"optim.accumulate is {config.optim.accumulate}, and a process's share of {local_batch} pairs does not "
            "divide by it: choose a divisor"
        )


def build_image_works(config: Config, ranks: RankSlice, device: torch.device, pool: ThreadPool) -> ImageWorks:
    """What makes the images of all sets: threads, and DALI where it decodes."""
    if config.run.deterministic and dali_engines_vary(config, device):
        raise UserError(
            f"run.deterministic is set, and dali.hardware_share is {config.dali.hardware_share}: which engine decodes "
            "an image changes a few of its pixels; set dali.hardware_share to 0 or 1, or data.decode to cpu"
        )
    mixed = METHODS[config.method].mixed
    return open_image_works(
        config.view,
        pool,
        decode=parse_decode(config.data.decode),
        dali=config.dali,
        device=device,
        dtype=choose_precision(config.run.precision, device),
        batch=DaliShape(
            max_batch=ranks.local_batch(config.optim.batch_size) * (2 if mixed else 1),
            views=2 if mixed else 1,
            size=config.view.size,
            depth=config.data.prefetch + 1,
        ),
    )


def dali_engines_vary(config: Config, device: torch.device) -> bool:
    """Whether chance decides which part of a GPU decodes an image."""
    decodes = device.type == "cuda" and config.view.crop == "resized" and config.data.decode != "cpu"
    return decodes and config.dali.hardware_share not in (0, 1)


def build_loader(
    config: Config, beton: BetonFile, ranks: RankSlice, works: ImageWorks
) -> TrainLoader | ResidentLoader:
    """The training batches that the method needs, from where the run wants them."""
    loader = build_ordinary_loader(config, beton, ranks, works)
    if not config.run.cuda_graph:
        return loader
    return ResidentLoader(loader, beton, works.pool, dtype=works.dtype, kernel=True)


def build_ordinary_loader(
    config: Config, beton: BetonFile, ranks: RankSlice, works: ImageWorks
) -> PairedLoader | PlainLoader:
    """Plain images, or mixed pairs."""
    settings = LoaderSettings(
        view=config.view,
        seed=config.run.seed,
        epochs=config.optim.epochs,
        global_batch=config.optim.batch_size,
        prefetch=config.data.prefetch,
        device=works.device,
    )
    images = works.open(beton)
    if METHODS[config.method].mixed:
        return PairedLoader(beton, settings, ranks, images, q=config.sampler.q, mix=config.mix)
    return PlainLoader(beton, settings, ranks, images)


def build_eval_loaders(
    config: Config, betons: dict[str, BetonFile], ranks: RankSlice, works: ImageWorks
) -> dict[str, EvalLoader]:
    """A loader for each of val and test that there is, in batches as large as the training ones."""
    local_batch = ranks.local_batch(config.optim.batch_size)
    return {
        split: EvalLoader(
            beton, config.view, ranks, works.open(beton), local_batch=local_batch, device=works.device
        )
        for split, beton in betons.items()
        if split != "train"
    }


def read_versions() -> dict[str, str]:
    """Of what the result may depend on."""
    versions = {"python": platform.python_version()}
    for name in ("fasttail", "torch", "torchvision", "numpy", "numba", "nvidia-dali-cuda120", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "source tree"
    return versions
