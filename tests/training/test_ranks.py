"""Any number of ranks trains the same: real processes under torchrun, on one machine or on two made of it."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch

Start = Callable[..., subprocess.Popen[str]]
WeightsOf = Callable[..., dict[str, dict[str, torch.Tensor]]]
STEPS = 4


class Node(NamedTuple):
    """One of two machines: how a process is started on it, and how it is reached."""

    before: tuple[str, ...]
    address: str
    interface: str


@contextmanager
def _network_namespaces() -> Iterator[list[Node]]:
    """Two machines made of this one: each has a network of its own, and one cable joins them.

    Raises `CalledProcessError` or `FileNotFoundError` where this machine does not allow it.
    """
    names = [f"fasttail-{os.getpid()}-{i}" for i in range(2)]
    cables = [f"ft{os.getpid() % 10**7}n{i}" for i in range(2)]
    addresses = ["10.213.77.1", "10.213.77.2"]
    ip = ("ip", "-netns")
    made: list[str] = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
            made.append(name)
        pair = ["type", "veth", "peer", "name", cables[1], "netns", names[1]]
        link = ["ip", "link", "add", cables[0], "netns", names[0], *pair]
        subprocess.run(link, check=True, capture_output=True)
        for name, cable, address in zip(names, cables, addresses, strict=True):
            subprocess.run([*ip, name, "addr", "add", f"{address}/24", "dev", cable], check=True)
            for device in (cable, "lo"):
                subprocess.run([*ip, name, "link", "set", device, "up"], check=True)
        yield [
            Node(("ip", "netns", "exec", name), address, cable)
            for name, address, cable in zip(names, addresses, cables, strict=True)
        ]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def two_nodes() -> Iterator[list[Node]]:
    """Two machines with a network each where this machine allows it, else twice this one, on loopback."""
    with ExitStack() as stack:
        try:
            nodes = stack.enter_context(_network_namespaces())
        except (subprocess.CalledProcessError, FileNotFoundError):
            nodes = [Node((), "127.0.0.1", "lo")] * 2
        yield nodes


def _weights_differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The greatest difference of any entry."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def _model(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]


@pytest.fixture(scope="module")
def weights_of(
    tmp_path_factory: pytest.TempPathFactory, options: Callable[..., list[str]], start_process: Start
) -> Callable[..., dict[str, dict[str, torch.Tensor]]]:
    """Weights before and after the same steps: `weights_of(ranks, *settings, backend="none")`.

    In float64 and without BatchNorm, whose statistics are those of the local batch.
    """
    folder = tmp_path_factory.mktemp("steps")
    script = str(Path(__file__).with_name("steps_of_a_rank.py"))

    @functools.cache
    def train(ranks: int, *settings: str, backend: str = "none") -> dict[str, dict[str, torch.Tensor]]:
        out = folder / f"{ranks}{backend}{len(settings)}.pt"
        torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), script)
        command = [str(out), str(STEPS), backend, *options(folder / "run", *settings)]
        process = start_process(command, module=torchrun)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        return torch.load(out, weights_only=True)

    return train


def test_weights_do_not_depend_on_the_number_of_ranks(weights_of: WeightsOf) -> None:
    saved = {ranks: weights_of(ranks) for ranks in (1, 2, 4)}
    assert all(tensor.dtype == torch.float64 for tensor in saved[1]["after"].values())
    assert _weights_differ(saved[1]["before"], saved[1]["after"]) > 1e-3
    for ranks in (2, 4):
        assert _weights_differ(saved[1]["after"], saved[ranks]["after"]) < 1e-10


def test_accumulated_gradients_of_compiled_ranks_are_those_of_one_batch(weights_of: WeightsOf) -> None:
    """Two ranks, each in four parts, the inner model compiled: one exchange, and the weights of one plain rank."""
    ours = weights_of(2, "--optim.accumulate", "4", backend="aot_eager")
    assert _weights_differ(weights_of(1)["after"], ours["after"]) < 1e-10


@pytest.mark.parametrize("rendezvous", ["c10d", "static"])
def test_two_nodes_train_as_one_does(
    two_nodes: list[Node],
    two_ranks: tuple[Path, str],
    rendezvous: str,
    tmp_path: Path,
    options: Callable[..., list[str]],
    start_process: Start,
) -> None:
    """Two torchrun agents of one worker each, across a network, end with the weights of two workers of one."""
    master, port = two_nodes[0], _free_port()
    agents = []
    for i, node in enumerate(two_nodes):
        # Which node holds the store torchrun sees by the host's name, and both have the same one here.
        c10d = ("--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-conf", f"is_host={int(i == 0)}")
        where = {
            "c10d": (*c10d, "--rdzv-endpoint", f"{master.address}:{port}"),
            "static": ("--master-addr", master.address, "--master-port", str(port)),
        }[rendezvous]
        torchrun = ("torch.distributed.run", "--nnodes", "2", "--node-rank", str(i), "--nproc-per-node", "1")
        command = options(tmp_path / "run", "--run.device", "cpu", epochs=4)
        module = (*torchrun, *where, "--local-addr", node.address, "-m", "training.train")
        agents.append(
            start_process(command, module=module, before=node.before, GLOO_SOCKET_IFNAME=node.interface)
        )
    for agent in agents:
        _, errors = agent.communicate(timeout=240)
        assert agent.returncode == 0, errors
    assert _weights_differ(_model(tmp_path / "run"), _model(two_ranks[0])) == 0


def test_a_worker_that_is_killed_is_replaced(
    two_ranks: tuple[Path, str],
    tmp_path: Path,
    options: Callable[..., list[str]],
    start_process: Start,
) -> None:
    """torchrun starts all workers again, and they go on from the last checkpoint to the same weights."""
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    folder = tmp_path / "run"
    command = options(folder, "--run.device", "cpu", epochs=4)
    agent = start_process(command, module=(*torchrun, "-m", "training.train"))
    last = folder / "checkpoints" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists():
        assert agent.poll() is None, agent.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    workers = [each for each in psutil.Process(agent.pid).children() if "training.train" in each.cmdline()]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)  # in the second of four epochs, or while the first is saved
    _, errors = agent.communicate(timeout=240)
    assert agent.returncode == 0, errors
    assert "exitcode: -9" in errors or "SIGKILL" in errors or "Signal 9" in errors, errors
    assert _weights_differ(_model(folder), _model(two_ranks[0])) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
