"""One rank of a few training steps in float64, started by test_ranks.py under torchrun.

`steps_of_a_rank.py OUT STEPS BACKEND WHERE NORM COMMAND_LINE...`: rank 0 saves the weights before and after, the losses
as they are logged, and those of its own share. The model is compiled with that backend of torch.compile, or not at all
if it is `none`; WHERE and NORM are what `joined` and `normalised` know.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed as dist
from torch import nn

from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from training.build import build_image_works, build_loader, build_seeded_model, build_step, open_betons
from training.command_line import build_parser, parse_config
from training.model import LongTailModel
from training.objectives import build_objective
from training.process_group import (
    GPU_BACKEND,
    ProcessGroup,
    data_parallel,
    end_rank,
    join_process_group,
    leave_group,
)
from training.step import MeanMetrics


@contextmanager
def joined(where: str) -> Iterator[ProcessGroup]:
    """`cpu` and `cuda`: as the trainer joins. `cuda-shared`: all ranks on one GPU, by gloo, for NCCL refuses that.

    `cpu-of-one` and `cuda-of-one`: a group of one rank, which the trainer does without.
    """
    device, _, special = where.partition("-")
    if not special:
        with join_process_group(device) as group:
            yield group
        return
    if device == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group(GPU_BACKEND if where == "cuda-of-one" else "gloo")
    try:
        index = 0 if device == "cuda" else None
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), torch.device(device, index))
        dist.barrier()
    finally:
        leave_group()


def normalised(model: LongTailModel, norm: str, group: ProcessGroup) -> LongTailModel:
    """`batch`: BatchNorm, whose result depends on who else is in the local batch; `group`: none such; `sync`."""
    if norm == "group":
        with_group_norm(model)
    return group.share_batch_statistics(model) if norm == "sync" else model


def with_group_norm(module: nn.Module) -> None:
    """Replace each BatchNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(2, child.num_features))
        else:
            with_group_norm(child)


def main(out: str, steps: int, backend: str, where: str, norm: str, command_line: list[str]) -> None:
    config, _ = parse_config(build_parser("test", ""), command_line)
    train = open_betons(config)["train"]
    with joined(where) as group, ThreadPool(1) as pool:
        objective = build_objective(
            config.method, torch.from_numpy(train.counts).to(group.device), config.glmc
        )
        model = normalised(build_seeded_model(config, train.num_classes), norm, group)
        model = model.double().to(group.device).to(memory_format=torch.channels_last)
        model.train_layers(objective.trained_layers)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        compiled = model if backend == "none" else torch.compile(model, backend=backend, dynamic=False)
        step = build_step(config, compiled, objective, group)
        if where.endswith("of-one"):
            step.model = data_parallel(step.model)
        ranks = RankSlice(group.rank, group.world_size)
        works = build_image_works(config, ranks, group.device, pool)
        batches = iter(build_loader(config, train, ranks, works).batches())
        logged, own = MeanMetrics(), MeanMetrics()
        for t in range(steps):
            batch = next(batches)
            exact = dataclasses.replace(batch, images=batch.images.double(), lam=batch.lam.double())
            alpha = torch.tensor(1 - (t / steps) ** 2, dtype=torch.float64, device=group.device)
            losses = step(exact, alpha)
            for metrics in (logged, own):
                metrics.add(losses)
        means = {"logged": logged.read(group), "own": own.read(ProcessGroup(0, 1, group.device))}
        if group.is_main:
            as_tensors = {
                name: {key: torch.tensor(x) for key, x in each.items()} for name, each in means.items()
            }
            torch.save({"before": before, "after": model.state_dict(), **as_tensors}, out)


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # few kernels: a pool takes longer to start
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:6], sys.argv[6:])
    end_rank(0)
