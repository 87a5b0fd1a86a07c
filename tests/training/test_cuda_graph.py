"""Training from device memory: on a CPU the same weights as from the ordinary loader, on a GPU the same as a graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.beton.reader import open_beton
from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewSettings
from pipelines.images_cpu import CpuImages
from pipelines.rank_slice import RankSlice
from pipelines.resident.loader import ResidentLoader
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import LoaderSettings, PairedLoader, PlainLoader, TrainLoader
from pipelines.user_error import UserError
from pipelines.view_sources import open_views
from training.backbones import Backbone
from training.command_line import build_parser, parse_config
from training.cuda_graph import EAGER_STEPS, GraphStep, check_graph
from training.model import LongTailModel
from training.objectives import GlmcSettings, build_objective
from training.optimizer import build_sgd, set_learning_rate
from training.process_group import ProcessGroup
from training.schedule import alpha
from training.step import TrainStep
from training.train import main

CPU = torch.device("cpu")
EPOCHS, BATCH = 3, 64


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    with ThreadPool(1) as pool:
        yield pool


def open_loader(
    digits: Path, pool: ThreadPool, method: str, device: torch.device
) -> PairedLoader | PlainLoader:
    beton = open_beton(digits / "train.beton")
    settings = LoaderSettings(
        view=ViewSettings(size=32, crop="padded", mean=(0.3, 0.3, 0.3), std=(0.3, 0.3, 0.3)),
        seed=1,
        epochs=EPOCHS,
        global_batch=BATCH,
        prefetch=1,
        device=device,
    )
    images = CpuImages(open_views(beton, settings.view), settings.view, pool)
    if method == "ce":
        return PlainLoader(beton, settings, RankSlice(0, 1), images)
    return PairedLoader(beton, settings, RankSlice(0, 1), images, q=0.2, mix=MixSettings(scope="sample"))


def make_model() -> LongTailModel:
    """Smooth, so that differences of rounding stay as small as they begin."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        return LongTailModel(Backbone(network, 16, 8, kaiming_linear=True), 10, 8)


def make_step(
    kind: type[TrainStep],
    method: str,
    digits: Path,
    device: torch.device,
    *,
    fixed_lr: bool,
    precision: torch.dtype = torch.float32,
) -> TrainStep:
    counts = torch.from_numpy(open_beton(digits / "train.beton").counts).to(device)
    model = make_model().to(device).to(memory_format=torch.channels_last)
    objective = build_objective(method, counts, GlmcSettings(gamma=2.0))
    model.train_layers(objective.trained_layers)
    lr = 0.02 if fixed_lr else torch.tensor(0.02, device=device)
    optimizer = build_sgd(model.parameters(), "auto", precision, lr=lr, momentum=0.9, weight_decay=5e-4)
    return kind(model, objective, optimizer, objective.views, device, precision)


def train(step: TrainStep, loader: TrainLoader | ResidentLoader, device: torch.device) -> list[float]:
    """As the loop does: α and the learning rate change with the epoch; returns the loss of each step."""
    alpha_now, losses = torch.zeros((), device=device), []
    for done, batch in enumerate(loader.batches()):
        epoch, step_in_epoch = divmod(done, len(loader))
        if step_in_epoch == 0:
            alpha_now.fill_(alpha(epoch, EPOCHS, cumulative=True))
            set_learning_rate(step.optimizer, 0.02 * (EPOCHS - epoch) / EPOCHS)
        losses.append(step(batch, alpha_now)["loss"].clone())
    return torch.stack(losses).tolist()


def assert_same_training(ours: TrainStep, theirs: TrainStep, rtol: float) -> None:
    """Weights, statistics and momentum, each within a share of the largest entry of its tensor."""
    states = [step.model.state_dict() for step in (ours, theirs)]
    momenta = [
        {i: state["momentum_buffer"] for i, state in step.optimizer.state_dict()["state"].items()}
        for step in (ours, theirs)
    ]
    for mine, other in (states, momenta):
        assert mine.keys() == other.keys() and mine
        for name, value in mine.items():
            difference = (value.double() - other[name].double()).abs().max()
            assert difference <= rtol * other[name].abs().max(), (name, difference)


@pytest.mark.parametrize("method", ["ce", "glmc"])
def test_from_device_memory_the_weights_are_those_of_the_ordinary_loader(
    digits: Path, pool: ThreadPool, method: str
) -> None:
    """Over two boundaries of epochs, with the learning rate as a tensor and without."""
    ordinary = open_loader(digits, pool, method, CPU)
    beton = open_beton(digits / "train.beton")
    resident = ResidentLoader(ordinary, beton, pool, dtype=torch.float32, kernel=False)
    assert len(ordinary) == 6
    theirs = make_step(TrainStep, method, digits, CPU, fixed_lr=True)
    ours = make_step(TrainStep, method, digits, CPU, fixed_lr=False)
    expected, losses = train(theirs, ordinary, CPU), train(ours, resident, CPU)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert len(set(losses)) == len(losses) == 18, "every step has draws of its own"
    assert_same_training(ours, theirs, 1e-4)


def graph_config(digits: Path, *more: str, method: str = "glmc") -> tuple[object, ...]:
    configs = Path(__file__).resolve().parents[2] / "configs" / f"digits_lt_{method}.yaml"
    arguments = ["--config", str(configs), "--run.cuda_graph", "true", *more]
    return parse_config(build_parser("test", ""), arguments)


@pytest.mark.parametrize(
    ("more", "group", "precision", "message"),
    [
        ((), ProcessGroup(0, 1, CPU), torch.float32, "it needs a GPU"),
        ((), ProcessGroup(0, 2, torch.device("cuda")), torch.float32, "it is for one process"),
        (("--view.crop", "resized", "--view.pad", "4"), None, torch.float32, "it needs view.crop padded"),
        (("--view.augment", "jitter-gray-blur"), None, torch.float32, "set view.augment none"),
        ((), None, torch.float16, "set run.precision bf16 or float32"),
        (
            ("--optim.implementation", "foreach"),
            None,
            torch.float32,
            "set optim.implementation auto or fused",
        ),
        (("--run.compile", "reduce-overhead"), None, torch.float32, "set default or none"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(
    digits: Path, more: tuple[str, ...], group: ProcessGroup | None, precision: torch.dtype, message: str
) -> None:
    config, _ = graph_config(digits, *more)
    with pytest.raises(UserError, match=rf"run\.cuda_graph is set, but .*{message}"):
        check_graph(config, group or ProcessGroup(0, 1, torch.device("cuda")), precision)


def test_one_gpu_in_bf16_is_fine(digits: Path) -> None:
    config, _ = graph_config(digits)
    check_graph(config, ProcessGroup(0, 1, torch.device("cuda")), torch.bfloat16)


def test_a_run_on_a_cpu_says_what_it_needs(
    tmp_path: Path, options: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(tmp_path, "--run.cuda_graph", "true", "--run.device", "cpu")) == 2
    assert "run.cuda_graph is set, but it needs a GPU" in capsys.readouterr().err


@pytest.fixture
def exact_kernels() -> Iterator[torch.device]:
    """The GPU, with cuDNN's deterministic algorithms and whole float32 numbers."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield torch.device("cuda", 0)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["ce", "glmc"])
def test_a_graph_trains_as_the_eager_step_does(
    digits: Path, pool: ThreadPool, method: str, exact_kernels: torch.device
) -> None:
    """Over two boundaries of epochs, against the ordinary loader: nothing of an epoch is frozen in the graph."""
    device = exact_kernels
    ordinary = open_loader(digits, pool, method, device)
    beton = open_beton(digits / "train.beton")
    resident = ResidentLoader(ordinary, beton, pool, dtype=torch.float32, kernel=True)
    theirs = make_step(TrainStep, method, digits, device, fixed_lr=True)
    ours = make_step(GraphStep, method, digits, device, fixed_lr=False)
    expected, losses = train(theirs, ordinary, device), train(ours, resident, device)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert len(set(losses)) == len(losses) == 18
    assert_same_training(ours, theirs, 1e-3)


@pytest.mark.gpu
def test_a_replay_does_not_wait_for_the_device(digits: Path, pool: ThreadPool) -> None:
    device = torch.device("cuda", 0)
    loader = open_loader(digits, pool, "glmc", device)
    beton = open_beton(digits / "train.beton")
    resident = ResidentLoader(loader, beton, pool, dtype=torch.bfloat16, kernel=True)
    step = make_step(GraphStep, "glmc", digits, device, fixed_lr=False, precision=torch.bfloat16)
    alpha_now, batches = torch.ones((), device=device), iter(resident.batches())
    for _ in range(EAGER_STEPS + 1):
        step(next(batches), alpha_now)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:  # the uploads of two epochs are among them
            step(batch, alpha_now)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_allocated() == before, "a replay allocates nothing"


@pytest.mark.gpu
def test_a_run_with_a_graph(
    tmp_path: Path, options: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns the digits, and finds its folder finished the second time."""
    speed = ("--run.cuda_graph", "true", "--run.device", "cuda", "--run.compile", "none")
    demo = ("--optim.batch_size", "32", "--model.width", "16")
    command = options(tmp_path, *speed, *demo, "--run.eval_epochs", "30", epochs=60)
    assert main(command) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy"]["all"] > 0.6
    assert main(command) == 0
    assert "holds this run, finished" in capsys.readouterr().out
