"""Accumulated gradients are those of one big batch, compiled or not, and cross the ranks once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.batch import Batch
from training.backbones import Backbone
from training.model import LongTailModel
from training.objectives import GlmcSettings, build_objective
from training.process_group import data_parallel
from training.step import TrainStep

CLASSES, PAIRS, PARTS = 5, 12, 3
ALPHA = torch.tensor(0.4)


def make_model() -> LongTailModel:
    """Without BatchNorm, whose statistics would tell one big batch from its parts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((2, 1)),
            nn.Flatten(),
        )
        return LongTailModel(Backbone(network, 16, 6, kaiming_linear=False), CLASSES, 6)


def make_step(model: LongTailModel, module: nn.Module, parts: int, passes: int = 2) -> TrainStep:
    objective = build_objective("glmc", torch.tensor([40, 20, 9, 3, 1]), GlmcSettings())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return TrainStep(module, objective, optimizer, passes, torch.device("cpu"), torch.float32, parts)


def make_batch(seed: int) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    return Batch(
        images=torch.randn(2 * PAIRS, 3, 7, 6, generator=draws).to(memory_format=torch.channels_last),
        label_a=torch.randint(CLASSES, (PAIRS,), generator=draws),
        label_b=torch.randint(CLASSES, (PAIRS,), generator=draws),
        lam=torch.rand(2, PAIRS, generator=draws),
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("passes", [1, 2])
def test_parts_give_the_weights_of_the_whole(passes: int, compiled: bool) -> None:
    whole, parted = make_model(), make_model()
    module = torch.compile(parted, backend="aot_eager", fullgraph=True) if compiled else parted
    big, small = make_step(whole, whole, 1, passes), make_step(parted, module, PARTS, passes)
    for seed in range(3):
        expected, losses = big(make_batch(seed), ALPHA), small(make_batch(seed), ALPHA)
        assert expected.keys() == losses.keys()
        for name, value in losses.items():
            assert not value.requires_grad
            torch.testing.assert_close(value, expected[name], msg=name)
    for (name, ours), theirs in zip(parted.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


def test_ranks_exchange_gradients_once_a_step(process_group: None) -> None:
    """The gradients that DDP hands over are the finished sums, of the last part only."""
    model, alone = make_model(), make_model()
    wrapped = data_parallel(model)
    assert isinstance(wrapped, DistributedDataParallel)
    assert wrapped.gradient_as_bucket_view and not wrapped.broadcast_buffers
    assert not wrapped.static_graph, "it breaks accumulation and compilation"
    exchanged: list[torch.Tensor] = []

    def count(_, bucket):  # without annotations, which DDP compares as objects and here are text
        exchanged.append(bucket.buffer().clone())
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    wrapped.register_comm_hook(None, count)
    step, reference = make_step(model, wrapped, PARTS), make_step(alone, alone, 1)
    for seed in range(2):
        step(make_batch(seed), ALPHA)
        reference(make_batch(seed), ALPHA)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert sum(map(len, exchanged)) == 2 * parameters
    gradients = torch.cat([parameter.grad.flatten() for parameter in alone.parameters()])
    sent = torch.cat(exchanged)[parameters:]
    torch.testing.assert_close(sent.sort().values, gradients.sort().values, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
