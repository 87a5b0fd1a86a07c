"""Settings -> live objects: a run that is ready to go, at the step where its last checkpoint left it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from pipelines.beton_reader import BetonFile, open_beton
from pipelines.dali_graph import DaliShape
from pipelines.eval_loader import EvalLoader
from pipelines.open_images import ImageWorks, open_image_works, parse_decode
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader, PlainLoader, TrainLoader
from pipelines.user_error import UserError
from training.checkpoint import Checkpoint, load_weights
from training.clock import Clock
from training.config import Config
from training.loop import Trainer
from training.model import LongTailModel, build_model
from training.objectives import METHODS, Objective, build_objective
from training.process_group import ProcessGroup
from training.run_folder import RunFolder
from training.run_log import SilentLog
from training.step import TrainStep, choose_precision


def open_betons(config: Config) -> dict[str, BetonFile]:
    """The betons by split: train, and val and test where the configuration names them; they must agree."""
    named = {"train": config.data.train, "val": config.data.val, "test": config.data.test}
    betons = {split: open_beton(path) for split, path in named.items() if path is not None}
    classes = betons["train"].num_classes
    for split, beton in betons.items():
        if beton.num_classes > classes:
            raise UserError(
                f"data.{split} {beton.path} has {beton.num_classes} classes and data.train "
                f"{betons['train'].path} has {classes}: they must be of one set"
            )
    return betons


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
    model = build_seeded_model(config, train.num_classes)
    model = model.to(group.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train_layers(objective.trained_layers)
    checkpoint = None if anew else checkpoint_of_all(config, folder, group)
    if checkpoint is not None:
        load_weights(model, checkpoint, folder.last)
    step = build_step(config, model, objective, group)
    if checkpoint is not None:
        step.optimizer.load_state_dict(checkpoint.optimizer)
        step.scaler.load_state_dict(checkpoint.scaler)
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
        train_set=train,
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


def checkpoint_of_all(config: Config, folder: RunFolder, group: ProcessGroup) -> Checkpoint | None:
    """What the run goes on from, None for a new one: rank 0 chooses, and the others must read the same."""
    chosen = folder.checkpoint_to_continue(config, group.device) if group.is_main else None
    step = group.of_main(-1 if chosen is None else chosen.step)
    return chosen if group.is_main or step < 0 else folder.checkpoint_of_step(step, group.device)


def build_seeded_model(config: Config, num_classes: int) -> LongTailModel:
    """The model with initial weights that depend on `run.seed` alone; PyTorch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        settings = config.model
        return build_model(settings.backbone, num_classes, settings.width, settings.projection_dim)


def build_step(config: Config, model: LongTailModel, objective: Objective, group: ProcessGroup) -> TrainStep:
    """The step with its optimizer, which holds only the parameters that the objective trains."""
    optim = config.optim
    return TrainStep(
        model=group.wrap(model),
        objective=objective,
        optimizer=torch.optim.SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=optim.lr,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
        ),
        passes=1 if config.model.joint_forward else objective.views,
        device=group.device,
        precision=choose_precision(config.run.precision, group.device),
        max_bad_steps=config.run.max_bad_steps,
    )


def build_image_works(config: Config, ranks: RankSlice, device: torch.device, pool: ThreadPool) -> ImageWorks:
    """What makes the images of all sets: threads, and DALI where it decodes."""
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


def build_loader(config: Config, beton: BetonFile, ranks: RankSlice, works: ImageWorks) -> TrainLoader:
    """The training batches that the method needs: plain images, or mixed pairs."""
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
