"""Any number of ranks trains the same: real processes under torchrun, on one machine or on two made of it."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch

from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from training.build import build_image_works, build_loader, build_seeded_model, open_betons
from training.command_line import build_parser, parse_config
from training.objectives import build_objective

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
    """Weights before and after the same steps, and losses.

    `weights_of(ranks, *settings, backend="none", where="cpu", norm="group")`, the latter as steps_of_a_rank.py has
    them: in float64, and without BatchNorm, whose statistics are those of the local batch.
    """
    folder = tmp_path_factory.mktemp("steps")
    script = str(Path(__file__).with_name("steps_of_a_rank.py"))

    @functools.cache
    def train(
        ranks: int, *settings: str, backend: str = "none", where: str = "cpu", norm: str = "group"
    ) -> dict[str, dict[str, torch.Tensor]]:
        out = folder / f"{ranks}{backend}{len(settings)}{where}{norm}.pt"
        torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), script)
        device = ("--run.device", where.partition("-")[0], "--run.precision", "float32")
        command = [str(out), str(STEPS), backend, where, norm, *options(folder / "run", *device, *settings)]
        process = start_process(command, module=torchrun)
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        return torch.load(out, weights_only=True, map_location="cpu")

    return train


def test_weights_do_not_depend_on_the_number_of_ranks(weights_of: WeightsOf) -> None:
    saved = {ranks: weights_of(ranks) for ranks in (1, 2, 4)}
    assert all(tensor.dtype == torch.float64 for tensor in saved[1]["after"].values())
    assert _weights_differ(saved[1]["before"], saved[1]["after"]) > 1e-3
    for ranks in (2, 4):
        assert _weights_differ(saved[1]["after"], saved[ranks]["after"]) < 1e-10


def test_the_logged_losses_are_the_means_over_the_global_batches(weights_of: WeightsOf) -> None:
    one = weights_of(1)["logged"]
    assert {"loss", "loss_conventional"} < one.keys()
    for ranks in (2, 4):
        several = weights_of(ranks)
        assert several["logged"].keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(several["logged"][name], value, rtol=1e-6, atol=0)
        assert abs(several["own"]["loss"] - one["loss"]) > 1e-4 * one["loss"], "rank 0 alone had other losses"


def test_the_trainer_logs_the_mean_over_its_ranks(
    tmp_path: Path, options: Callable[..., list[str]], start_process: Start
) -> None:
    """The first step's loss, by hand: each rank's share goes through the network with its own BatchNorm statistics."""
    command = options(tmp_path, "--run.device", "cpu", "--run.log_steps", "1", epochs=1)
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training.train")
    process = start_process(command, module=torchrun)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    config, _ = parse_config(build_parser("test", ""), command)
    train = open_betons(config)["train"]
    shares = []
    with ThreadPool(1) as pool:
        for rank in range(2):
            model = build_seeded_model(config, train.num_classes).to(memory_format=torch.channels_last)
            objective = build_objective(config.method, torch.from_numpy(train.counts), config.glmc)
            ranks = RankSlice(rank, 2)
            works = build_image_works(config, ranks, torch.device("cpu"), pool)
            batch = next(iter(build_loader(config, train, ranks, works).batches()))
            outputs = model(batch.images, objective.views)
            shares.append(objective.loss(outputs, batch, torch.tensor(1.0))["loss"].item())
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert entries[0]["step"] == 1
    assert entries[0]["loss"] == pytest.approx(sum(shares) / 2, rel=1e-5)
    assert abs(shares[0] - shares[1]) > 1e-3


def test_accumulated_gradients_of_compiled_ranks_are_those_of_one_batch(weights_of: WeightsOf) -> None:
    """Two ranks, each in four parts, the inner model compiled: one exchange, and the weights of one plain rank."""
    ours = weights_of(2, "--optim.accumulate", "4", backend="aot_eager")
    assert _weights_differ(weights_of(1)["after"], ours["after"]) < 1e-10


@pytest.mark.parametrize(
    ("where", "backend"),
    [("cpu", "aot_eager"), pytest.param("cuda", "inductor", marks=pytest.mark.gpu)],
)
def test_ddp_changes_nothing_of_one_compiled_rank(weights_of: WeightsOf, where: str, backend: str) -> None:
    """On a GPU it is NCCL that sums, into views of its buckets; a machine with one GPU has no larger group of it."""
    ours = weights_of(1, where=f"{where}-of-one", backend=backend)
    assert _weights_differ(ours["before"], ours["after"]) > 1e-3
    assert _weights_differ(weights_of(1, where=where)["after"], ours["after"]) < 1e-10


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda-shared", marks=pytest.mark.gpu)])
def test_synchronised_statistics_make_the_weights_those_of_one_rank(
    weights_of: WeightsOf, where: str
) -> None:
    """Two ranks, forward and backward; with ordinary BatchNorm, all that a CPU can do, they differ."""
    one = weights_of(1, where=where.partition("-")[0], norm="batch")["after"]
    apart = weights_of(2, where=where, norm="batch")["after"]
    assert _weights_differ(one, apart) > 1e-4
    if where != "cpu":
        assert _weights_differ(one, weights_of(2, where=where, norm="sync")["after"]) < 1e-8


@pytest.mark.gpu
def test_two_gpus(
    weights_of: WeightsOf, tmp_path: Path, photograph_options: Callable[..., list[str]], start_process: Start
) -> None:
    """NCCL between two: the weights of one, and a whole run of the trainer's defaults."""
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine refuses: it has one GPU")
    for norm, exact in (("group", "group"), ("batch", "sync")):
        one, two = weights_of(1, where="cuda", norm=norm), weights_of(2, where="cuda", norm=exact)
        assert _weights_differ(one["after"], two["after"]) < 1e-8
    command = photograph_options(tmp_path / "run", "--run.device", "cuda", "--model.sync_batchnorm", "true")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training.train")
    _, errors = (process := start_process(command, module=torchrun)).communicate(timeout=900)
    assert process.returncode == 0, errors
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("rendezvous", ["c10d", "static"])
def test_two_nodes_train_as_one_does(
    two_nodes: list[Node],
    two_ranks: tuple[Path, str],
    rendezvous: str,
    tmp_path: Path,
    options: Callable[..., list[str]],
    start_process: Start,
    free_port: Callable[[], int],
) -> None:
    """Two torchrun agents of one worker each, across a network, end with the weights of two workers of one."""
    master, port = two_nodes[0], free_port()
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
        _, errors = agent.communicate(timeout=900)
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
    agent = start_process(["9", *command], module=(*torchrun, "-m", "tests.training.held_run"))
    last = folder / "checkpoints" / "last.pt"
    deadline = time.monotonic() + 600
    while not last.exists():
        assert agent.poll() is None, agent.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(agent.pid).children()
    workers = [each for each in children if "tests.training.held_run" in each.cmdline()]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)  # in the second of four epochs
    _, errors = agent.communicate(timeout=900)
    assert agent.returncode == 0, errors
    assert "exitcode: -9" in errors or "SIGKILL" in errors or "Signal 9" in errors, errors
    assert _weights_differ(_model(folder), _model(two_ranks[0])) == 0
