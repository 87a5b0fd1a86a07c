"""A tiny Digits-LT, and the trainer as a user starts it, for every test of whole runs."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pipelines.beton.format import SMALLEST_PAGE
from pipelines.beton.writer import write_beton
from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import ImageSettings
from pipelines.conversion.settings import ConversionSettings
from pipelines.sources.digits import digits_split
from pipelines.sources.image_list import from_rows
from training.model import build_model
from training.process_group import leave_group
from training.train import main

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
"""One thread an operator: with more of them than idle cores, OpenMP's threads spin on one another."""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Operators of the test process run on one thread, as those of the processes that it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.beton` (331 images, 120 to 2 a class) and `test.beton` (50 of each class)."""
    folder = tmp_path_factory.mktemp("digits")
    for split in ("train", "test"):
        images, encoded = digits_split(split, 50.0, 0)
        write_beton(folder / f"{split}.beton", images, encoded, settings={}, page_size=SMALLEST_PAGE)
    return folder


@pytest.fixture(scope="session")
def options(digits: Path) -> Callable[..., list[str]]:
    """A maker of command lines: `options(folder, method="glmc", epochs=2)`, more options appended as they are."""

    def make(folder: Path, *more: str, method: str = "glmc", epochs: int = 2) -> list[str]:
        return [
            *("--config", str(REPOSITORY / "configs" / f"digits_lt_{method}.yaml")),
            *("--data.train", str(digits / "train.beton"), "--data.test", str(digits / "test.beton")),
            *("--model.width", "4", "--optim.epochs", str(epochs), "--optim.batch_size", "64"),
            *("--run.folder", str(folder), "--data.threads", "1", *more),
        ]

    return make


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A maker of ports that nothing listens on, and that the kernel gives nobody who asks for any.

    One of those could be taken before the process that it is meant for has begun; and a client that tries again and
    again until somebody listens there may in the end be given that very port as its own, and so reach itself.
    """
    given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    draw = random.SystemRandom()

    def find() -> int:
        while True:
            with socket.socket() as tried, suppress(OSError):
                tried.bind(("", draw.randrange(given_away // 2, given_away)))
                return int(tried.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def photographs(
    make_photographs: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A beton of 40 JPEGs of 3 classes, sides of 48 to 200 pixels."""
    folder = tmp_path_factory.mktemp("photographs")
    files = make_photographs(folder / "files", 40)
    labels = np.repeat([0, 1, 2], [25, 10, 5])
    images = from_rows([file.name for file in files], labels, list("abc"), kind="list", name="photographs")
    settings = ConversionSettings(image=ImageSettings())
    convert_images(images, folder / "files", folder / "photographs.beton", settings, workers=1)
    return folder / "photographs.beton"


@pytest.fixture(scope="session")
def photograph_options(photographs: Path) -> Callable[..., list[str]]:
    """As `options`, for GLMC on photographs: `photograph_options(folder, *more, epochs=2)`, 3 steps an epoch."""

    def make(folder: Path, *more: str, epochs: int = 2) -> list[str]:
        return [
            *("--method", "glmc", "--model.backbone", "resnet8", "--model.width", "4"),
            *("--view.size", "32", "--view.eval_resize", "36"),
            *("--data.train", str(photographs), "--data.test", str(photographs), "--data.threads", "2"),
            *("--optim.epochs", str(epochs), "--optim.batch_size", "16", "--optim.lr", "0.05"),
            *("--run.device", "cpu", "--run.folder", str(folder), *more),
        ]

    return make


@pytest.fixture(scope="session")
def start_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `python -m training.train OPTIONS` (or another module, or behind another command) with pipes;
    killed when the tests end."""
    started = []

    def start(
        arguments: list[str],
        *,
        module: tuple[str, ...] = ("training.train",),
        before: tuple[str, ...] = (),
        **environment: str,
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", *module, *arguments],
            cwd=REPOSITORY,
            env={**ENVIRONMENT, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def run_with_stops(
    start_process: Callable[..., subprocess.Popen[str]], free_port: Callable[[], int]
) -> Callable[..., list[Any]]:
    """Starts runs again and again as `run_with_stops(plans)` tells; see stopped_runs.py for plans and result."""

    def run(plans: list[dict[str, Any]]) -> list[Any]:
        with_ports = [{**plan, "port": free_port()} for plan in plans]
        process = start_process([json.dumps(with_ports)], module=("tests.training.stopped_runs",))
        out, errors = process.communicate(timeout=3000)
        assert process.returncode == 0, errors
        return json.loads(out.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def result_of() -> Callable[[Path], dict[str, Any]]:
    """Everything in last.pt and metrics.jsonl of a run's folder, flat, to be compared bit by bit: `result_of(folder)`.

    Times are left out, and what the command line may change.
    """

    def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(value, torch.Tensor):
            yield path, (value.dtype, value.shape, value.numpy().tobytes())
        elif isinstance(value, dict | list):
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                yield from flat(each, f"{path}/{key}")
        else:
            yield path, value

    def read(folder: Path) -> dict[str, Any]:
        saved = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
        assert isinstance(saved.pop("seconds"), float)
        saved["config"]["run"].pop("folder")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            for rate in ("pairs_per_second", "images_per_second"):
                line.pop(rate, None)
        return dict(flat({"saved": saved, "lines": lines}))

    return read


@pytest.fixture(scope="session")
def glmc_run(tmp_path_factory: pytest.TempPathFactory, options: Callable[..., list[str]]) -> Path:
    """The folder of a finished run of GLMC, 3 epochs with an evaluation after each; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "glmc"
    assert main(options(folder, "--run.log_steps", "4", epochs=3)) == 0
    return folder


@pytest.fixture(scope="session")
def two_ranks(
    tmp_path_factory: pytest.TempPathFactory,
    options: Callable[..., list[str]],
    start_process: Callable[..., subprocess.Popen[str]],
) -> tuple[Path, str]:
    """The folder of a run of GLMC, 4 epochs on two ranks, and what the two printed; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training.train")
    process = start_process(options(folder, "--run.device", "cpu", epochs=4), module=torchrun)
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return folder, out


@pytest.fixture(scope="session")
def recount() -> Callable[[Path], tuple[dict[str, list[int]], float]]:
    """Count anew on Digits-LT's test set: `recount(last.pt)` gives the right answers of each class by head, and the
    spread of the normalised projection.

    Plain PyTorch, one image at a time, on pixels made here from scikit-learn's digits; of the trainer it takes
    the network alone.
    """
    digits = load_digits()
    test = {
        c: np.random.default_rng([0, c]).permutation(np.flatnonzero(digits.target == c))[:50]
        for c in range(10)
    }

    def image(index: int) -> torch.Tensor:
        gray = Image.fromarray(np.round(digits.images[index] * 255 / 16).astype(np.uint8))
        pixels = np.asarray(gray.resize((32, 32), Image.Resampling.BILINEAR), np.float32)
        return torch.from_numpy((pixels / 255 - 0.305) / 0.323).expand(1, 3, 32, 32)

    def count(checkpoint: Path) -> tuple[dict[str, list[int]], float]:
        weights = torch.load(checkpoint, weights_only=True)["model"]
        model = build_model("resnet8", 10, width=4)
        model.load_state_dict(weights)
        model.eval()
        right = {"conventional": [0] * 10, "rebalanced": [0] * 10}
        directions = []
        with torch.no_grad():
            for c, indices in test.items():
                for index in indices:
                    features = model.backbone(image(index))[0]
                    z = weights["projection.weight"] @ features + weights["projection.bias"]
                    directions.append((z / z.norm()).double().numpy())
                    for head, counts in right.items():
                        logits = weights[f"{head}_head.weight"] @ features + weights[f"{head}_head.bias"]
                        counts[c] += int(logits.argmax()) == c
        return right, float(np.std(directions, axis=0).mean() * 128**0.5)

    return count


@pytest.fixture
def brought_to_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each file and folder that this process has waited for the disk with, when it did."""
    fsync, names = os.fsync, list[str]()

    def noting(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    return names


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    leave_group()
