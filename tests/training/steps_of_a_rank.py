"""One rank of a few training steps in float64 without BatchNorm, started by test_ranks.py under torchrun.

`steps_of_a_rank.py OUT STEPS BACKEND COMMAND_LINE...`: rank 0 saves the weights before and after, the losses as they
are logged, and those of its own share. The model is compiled with that backend of torch.compile, or not at all if it is
`none`.
"""

from __future__ import annotations

import dataclasses
import sys

import torch
from torch import nn

from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from training.build import build_image_works, build_loader, build_seeded_model, build_step, open_betons
from training.command_line import build_parser, parse_config
from training.objectives import build_objective
from training.process_group import ProcessGroup, join_process_group
from training.step import MeanMetrics


def with_group_norm(module: nn.Module) -> None:
    """Replace each BatchNorm, whose result depends on who else is in the local batch."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(2, child.num_features))
        else:
            with_group_norm(child)


def main(out: str, steps: int, backend: str, command_line: list[str]) -> None:
    config, _ = parse_config(build_parser("test", ""), command_line)
    train = open_betons(config)["train"]
    with join_process_group("cpu") as group, ThreadPool(1) as pool:
        objective = build_objective(config.method, torch.from_numpy(train.counts), config.glmc)
        model = build_seeded_model(config, train.num_classes)
        with_group_norm(model)
        model = model.double().to(memory_format=torch.channels_last)
        model.train_layers(objective.trained_layers)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        compiled = model if backend == "none" else torch.compile(model, backend=backend, dynamic=False)
        step = build_step(config, compiled, objective, group)
        ranks = RankSlice(group.rank, group.world_size)
        works = build_image_works(config, ranks, group.device, pool)
        batches = iter(build_loader(config, train, ranks, works).batches())
        logged, own = MeanMetrics(), MeanMetrics()
        for t in range(steps):
            batch = next(batches)
            exact = dataclasses.replace(batch, images=batch.images.double(), lam=batch.lam.double())
            losses = step(exact, torch.tensor(1 - (t / steps) ** 2, dtype=torch.float64))
            for metrics in (logged, own):
                metrics.add(losses)
        means = {"logged": logged.read(group), "own": own.read(ProcessGroup(0, 1, group.device))}
        if group.is_main:
            as_tensors = {
                name: {key: torch.tensor(x) for key, x in each.items()} for name, each in means.items()
            }
            torch.save({"before": before, "after": model.state_dict(), **as_tensors}, out)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
