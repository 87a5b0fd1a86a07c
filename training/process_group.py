"""Everything that knows of ranks: one process by itself, or one of many that torchrun started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.user_error import UserError
from training.generation import agent_store, store_of_this_start

AnyModule = TypeVar("AnyModule", bound=nn.Module)

_left: list[object] = []
"""Groups that this process was in, see `leave_group`."""
GPU_BACKEND = "cpu:gloo,cuda:nccl"
"""What the hosts agree on goes by gloo, so that they need not wait for their GPUs."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among all of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the one rank that writes and prints."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line for the user, once."""
        if self.is_main:
            print(text, flush=True)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place; the same tensor on one rank."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, rank 0 first, on rank 0; nothing on the others. Shapes must be the same."""
        if self.world_size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)] if self.is_main else None
        dist.gather(tensor.contiguous(), parts)
        return parts or []

    def begin_maximum(self, value: int) -> Callable[[], int]:
        """Begin to find the largest value of all ranks, on the hosts; the result waits for it and returns it.

        All ranks must begin it between the same two other sums.
        """
        largest = torch.tensor(value)
        work = dist.all_reduce(largest, dist.ReduceOp.MAX, async_op=True)

        def result() -> int:
            work.wait()
            return int(largest)

        return result

    def of_main(self, value: int) -> int:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        sent = torch.tensor(value)
        dist.broadcast(sent, 0)
        return int(sent)

    def on_main(self, action: Callable[[], object]) -> None:
        """Do something on rank 0 while the others wait.

        A `UserError` of rank 0 is raised there; the other ranks then leave with the same exit status, silently.
        """
        refused: UserError | None = None
        if self.is_main:
            try:
                action()
            except UserError as error:
                refused = error
        if self.of_main(int(refused is not None)):
            raise refused or SystemExit(2)

    def wait_for_all(self) -> None:
        """Return once every rank has come here."""
        if self.world_size > 1:
            dist.barrier()

    def same_buffers(self, model: nn.Module) -> None:
        """Give every rank the BatchNorm statistics of rank 0, which are those that a checkpoint holds."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def share_batch_statistics(self, model: AnyModule) -> AnyModule:
        """The model with SyncBatchNorm, whose statistics are those of all ranks' batches; on one rank as it is."""
        if self.device.type == "cpu":
            raise UserError(
                "model.sync_batchnorm needs GPUs: PyTorch's SyncBatchNorm refuses CPU tensors; leave it out"
            )
        return model if self.world_size == 1 else nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are averaged over ranks.

        Buffers are not broadcast: each rank keeps the BatchNorm statistics of its own local batches, as the
        published runs under DataParallel did.
        """
        return model if self.world_size == 1 else data_parallel(model)


def data_parallel(model: nn.Module) -> nn.Module:
    """The model under DDP as `ProcessGroup.wrap` sets it, on any number of ranks."""
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def choose_device(setting: str, local_rank: int) -> torch.device:
    """`auto`, `cpu` or `cuda` -> the device of this process."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("run.device is cuda, and PyTorch sees no CUDA device: check the driver or use cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
            "lower torchrun's --nproc-per-node"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def join_process_group(device_setting: str) -> Iterator[ProcessGroup]:
    """Join the ranks that torchrun started, or be alone; leaves the group at the end."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_setting, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size == 1:
        yield ProcessGroup(0, 1, device)
        return
    backend = GPU_BACKEND if device.type == "cuda" else "gloo"
    store, rank = agent_store(), int(os.environ["RANK"])
    if store is None:
        dist.init_process_group(backend)
    else:
        own = store_of_this_start(store, rank, world_size)
        dist.init_process_group(backend, store=own, rank=rank, world_size=world_size)
    try:
        group = ProcessGroup(dist.get_rank(), world_size, device)
        yield group
        group.wait_for_all()  # no rank leaves while another still writes the results
    finally:
        leave_group()


def leave_group() -> None:
    """Leave the group of all ranks, but keep it in memory.

    Whoever drops the last reference to it, as DDP may, holds the GIL and joins the threads of gloo; in PyTorch 2.11 one
    of these may be waiting for the GIL, to let go of the tensors of the last sums, and then both wait for ever.
    """
    _left.append(dist.group.WORLD)
    dist.destroy_process_group()


def end_rank(status: int) -> NoReturn:
    """End this process, one of several ranks, without Python's own clean-up.

    That stops gloo's threads in the middle of C++ code, which aborts the process ("terminate called without an active
    exception"): with PyTorch 2.11, 13 of 24 trials of two ranks on two busy cores. Ended here, none of 16 did. By now
    everything is written and closed, and the group is left.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
