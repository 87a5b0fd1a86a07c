"""Two real ranks under torchrun make one run; one process by itself needs nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.user_error import UserError
from training.checkpoint import load_checkpoint
from training.process_group import ProcessGroup, choose_device, join_process_group

CPU = torch.device("cpu")


def test_a_process_by_itself() -> None:
    with join_process_group("cpu") as group:
        assert (group.rank, group.world_size, group.device, group.is_main) == (0, 1, CPU, True)
        counts = torch.tensor([3, 4])
        assert group.sum(counts) is counts
        assert counts.tolist() == [3, 4]
        group.wait_for_all()
        model = nn.Linear(2, 2)
        assert group.wrap(model) is model
    assert not torch.distributed.is_initialized()


def test_only_rank_0_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in range(2):
        ProcessGroup(rank, 2, CPU).say(f"rank {rank}")
    assert capsys.readouterr().out == "rank 0\n"


def test_devices() -> None:
    assert choose_device("cpu", 5) == CPU
    if torch.cuda.is_available():
        with pytest.raises(UserError, match=r"local rank 999 has no GPU.*lower torchrun's --nproc-per-node"):
            choose_device("cuda", 999)
    else:
        assert choose_device("auto", 0) == CPU
        with pytest.raises(UserError, match=r"run\.device is cuda, and PyTorch sees no CUDA device"):
            choose_device("cuda", 0)


def test_synchronised_statistics_need_gpus() -> None:
    with pytest.raises(UserError, match=r"model\.sync_batchnorm needs GPUs.*leave it out"):
        ProcessGroup(0, 2, CPU).share_batch_statistics(nn.Linear(2, 2))


@pytest.mark.gpu
def test_synchronised_statistics_keep_the_names_of_a_checkpoint() -> None:
    gpu = torch.device("cuda", 0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    names = list(model.state_dict())
    assert ProcessGroup(0, 1, gpu).share_batch_statistics(model) is model, "one rank has all there is"
    shared = ProcessGroup(0, 2, gpu).share_batch_statistics(model)
    assert isinstance(shared[1], nn.SyncBatchNorm)
    assert list(shared.state_dict()) == names


def test_rank_0_alone_writes_and_prints(two_ranks: tuple[Path, str]) -> None:
    folder, out = two_ranks
    assert out.count("Top-1 of the last epoch") == 1
    assert out.count("method: glmc") == 1
    assert out.count("This is the log of rank 0 of 2 on ") == 1
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    each_epoch = [[("train", step), ("eval", step), ("eval", step)] for step in (6, 12, 18, 24)]
    assert [(entry["kind"], entry["step"]) for entry in entries] == [each for of in each_epoch for each in of]
    assert len(list((folder / "tensorboard").iterdir())) == 1


def test_two_ranks_count_every_test_image_once(
    two_ranks: tuple[Path, str], recount: Callable[[Path], tuple[dict[str, list[int]], float]]
) -> None:
    """The saved weights, run over the 500 test images by plain PyTorch, give the very fractions reported.

    The spread, too, which is that of one model on both ranks only if they evaluate with the same BatchNorm
    statistics.
    """
    folder, _ = two_ranks
    summary = json.loads((folder / "summary.json").read_text())
    counts, spread = recount(folder / "checkpoints" / "last.pt")
    right = counts["rebalanced"]
    assert summary["accuracy"]["all"] == sum(right) / 500
    assert summary["accuracy"]["per_class"] == [count / 50 for count in right]
    logged = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert logged["projection_spread"] == pytest.approx(spread, rel=1e-4)


def test_two_ranks_save_what_one_process_reads(two_ranks: tuple[Path, str], glmc_run: Path) -> None:
    """The names are those of the model itself, and all 24 steps of two views each were taken."""
    two = load_checkpoint(two_ranks[0] / "checkpoints" / "last.pt")
    one = load_checkpoint(glmc_run / "checkpoints" / "last.pt")
    assert two.step == 24
    assert two.model.keys() == one.model.keys(), "saved without DDP's prefix"
    assert two.model["backbone.bn1.num_batches_tracked"] == 2 * 24
