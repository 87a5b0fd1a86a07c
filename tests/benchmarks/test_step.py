"""The benchmark of the step: what its parts measure is what they say, and the command ends with consistent rows."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.decoder_kernels import BATCHES, ceiling, kernel_milliseconds_per_batch, streams_of
from benchmarks.gpu_kernels import busy_milliseconds, by_stream
from benchmarks.matrix_peak import matrix_flops_per_second, training_flops_per_image
from benchmarks.measurement import find
from benchmarks.photographs import Photographs
from benchmarks.results import read_json
from benchmarks.step import best_decoder
from benchmarks.step_phases import PHASES, phase_milliseconds
from benchmarks.step_plan import Costs, Plan, plan_for_cpu, plan_for_gpu
from benchmarks.trainer import BenchmarkTrainer, TrainerSettings
from pipelines.thread_pool import ThreadPool
from tools.benchmark import main

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
NAME = "resnet8/channels_last/float32/compile none/batch 2/real cpu"


@pytest.fixture(autouse=True)
def same_cores() -> Iterator[None]:
    """The command keeps this process to some of its cores; give them back."""
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def settings(**changes: object) -> TrainerSettings:
    return TrainerSettings(backbone="resnet8", batch=3, size=32, precision="float32", **changes)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_the_fixed_batch_is_the_first_of_the_loader(few: Photographs, layout: str) -> None:
    with (
        ThreadPool(1) as pool,
        closing(BenchmarkTrainer(settings(layout=layout), few.beton, CPU, pool)) as trainer,
    ):
        first, fixed = next(trainer.real_batches()), trainer.fixed()
        for name in ("label_a", "label_b", "lam"):
            assert torch.equal(getattr(fixed, name), getattr(first, name)), name
        torch.testing.assert_close(fixed.images, first.images)
        memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        assert fixed.images.is_contiguous(memory_format=memory)
        assert trainer.model.backbone.conv1.weight.is_contiguous(memory_format=memory)
        assert not torch.equal(fixed.images, next(trainer.real_batches()).images)


def test_phases_are_those_of_an_ordinary_step(few: Photographs) -> None:
    """They fill the time between the first mark and the last, and the step in phases trains the same weights."""
    with ThreadPool(1) as pool:
        trainers = [BenchmarkTrainer(settings(), few.beton, CPU, pool) for _ in range(2)]
        phases = phase_milliseconds(trainers[0].step, trainers[0].fixed_batches(), trainers[0].alpha, 4)
        for _ in range(4):
            trainers[1].step(trainers[1].fixed, trainers[1].alpha)
        for trainer in trainers:
            trainer.close()
    assert list(phases) == list(PHASES)
    assert all(len(spans) == 4 and min(spans) > 0 for spans in phases.values())
    assert min(phases["backward"]) > 0.05, "a backward pass of six images takes its time"
    for ours, theirs in zip(trainers[0].model.parameters(), trainers[1].model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_operations_of_a_small_network() -> None:
    """Counted by hand: 4 filters of 3 x 3 x 3 at 6 x 6 places (two groups: half of it), then 144 x 5; times three."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(144, 5))
    by_hand = 2 * (36 * 4 * 27 + 36 * 4 * 2 + 144 * 5)
    assert training_flops_per_image(network, 8) == 3 * by_hand
    assert network.training


def test_the_peak_is_a_rate() -> None:
    rates = matrix_flops_per_second(CPU, torch.float32, runs=2)
    assert len(rates) == 2
    assert all(1e8 < rate < 1e14 for rate in rates)


def test_kernels_are_told_apart_by_stream() -> None:
    trace = {
        "traceEvents": [
            {"cat": "kernel", "ts": 1000.0, "dur": 1500.0, "args": {"stream": 7}},
            {"cat": "kernel", "ts": 2000, "dur": 250, "args": {"stream": 20}},
            {"cat": "gpu_memcpy", "ts": 2000, "dur": 9000, "args": {"stream": 20}},
            {"cat": "kernel", "ts": 4000, "dur": 500, "args": {"stream": 7}},
            {"ph": "M", "name": "process_name"},
        ]
    }
    assert by_stream(trace) == {7: [(1.0, 2.5), (4.0, 4.5)], 20: [(2.0, 2.25)]}


def test_what_two_streams_do_at_once_counts_once() -> None:
    generator = random.Random(3)
    starts = [generator.randrange(60) for _ in range(12)]
    spans = [(start, start + generator.randrange(1, 9)) for start in starts]
    busy = {time for start, end in spans for time in range(start, end)}
    assert len(busy) < sum(end - start for start, end in spans), "some of them overlap"
    assert busy_milliseconds(spans) == len(busy)
    assert busy_milliseconds([]) == 0


def test_a_step_and_a_decoder_in_turn_reach_the_ceiling() -> None:
    """160 ms of training and 40 ms of decoding are 5 steps a second instead of 6.25."""
    assert ceiling(160, 40) == pytest.approx(100 * 5 / 6.25)
    assert ceiling(160, 0) == 100
    assert 0 < ceiling(10, 1000) < 1


def test_the_best_decoder_is_judged_outright() -> None:
    ratios = {"net/real dali-gpu": 92.04, "net/real cpu": 98.0, "net/real split:0.3": 97.9}
    assert best_decoder("net", ratios) == (
        "net: best with real cpu, 98.0 % of the step without a decoder; goal 98 % outright: reached"
    )
    assert best_decoder("net", {"net/real cpu": 97.9}).endswith("goal 98 % outright: missed")


@pytest.mark.gpu
def test_kernels_of_the_trainers_stream_are_left_out() -> None:
    """A feed that works ahead on a stream of its own, one product of matrices a batch; beside it one on PyTorch's."""
    a, other = torch.ones(4096, 4096, device="cuda"), torch.cuda.Stream()
    own = streams_of(lambda: a @ a)
    assert len(own) == 1
    made = 0

    def batches() -> Iterator[object]:
        nonlocal made
        while True:
            with torch.cuda.stream(other):
                a @ a
            torch.cuda.synchronize()  # at once, both would be slower
            made += 1
            yield a @ a
            torch.cuda.synchronize()

    each = kernel_milliseconds_per_batch(batches(), 0, own)
    assert made == BATCHES + 2
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(BATCHES):
        a @ a
    end.record()
    torch.cuda.synchronize()
    assert each == pytest.approx(start.elapsed_time(end) / BATCHES, rel=0.5), "once, not twice"


def test_a_trainer_is_expected_to_take_as_long_as_the_longest_of_its_kind() -> None:
    costs, eager = Costs(on_gpu=True), settings()
    compiled = settings(compile="default")
    guess = costs.expected(compiled, real=False)
    assert guess > costs.expected(eager, real=False) > 0
    costs.learn(compiled, 20, real=False)
    costs.learn(compiled, 10, real=False)
    assert costs.expected(compiled, real=False) == 20 < guess
    assert costs.expected(compiled, real=True) > 20, "another kind"
    assert Costs(on_gpu=False).expected(compiled, real=True) == 0, "a small network is not guessed at"


@pytest.mark.parametrize("plan", [plan_for_gpu(256, 224), plan_for_cpu(16, 64)])
def test_every_trainer_of_a_plan_has_a_name_of_its_own(plan: Plan) -> None:
    names = [settings.name for settings in [*plan.real, *plan.compared]]
    assert len(set(names)) == len(names)


def test_the_command(few: Photographs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, beton = tmp_path / "step.json", str(few.beton.path)
    small = ("--seconds", "0.01", "--images", "24", "--batch", "2", "--size", "32", "--cores", "1")
    arguments = [
        "step",
        *small,
        "--beton",
        beton,
        "--json",
        str(out),
        "--picture",
        str(tmp_path / "step.png"),
    ]
    assert main(arguments) == 0
    rows = {(row["name"], row["metric"]): row for row in json.loads(out.read_text())["rows"]}
    name = "resnet8/channels_last/float32/compile none/batch 2"
    assert {metric for of, metric in rows if of == f"{name}/real cpu"} == {
        "forward_images_per_second",
        "source_decodes_per_second",
        "ratio_to_device",
        "milliseconds_per_step",
        "host_wait_in_loader_milliseconds",
        *(f"{phase}_milliseconds_per_step" for phase in PHASES),
    }
    for kind in ("real cpu", "on device"):
        images = rows[f"{name}/{kind}", "forward_images_per_second"]
        step = rows[f"{name}/{kind}", "milliseconds_per_step"]
        assert images["runs"] == 5
        assert images["max"] * step["min"] / 1000 == pytest.approx(4), "two pairs, two views"
    assert {of.removesuffix("/on device") for of, _ in rows if of.endswith("/on device")} == {
        name,
        "resnet8/contiguous/float32/compile none/batch 2",
        "resnet8/channels_last/bf16/compile none/batch 2",
        "resnet8/channels_last/float32/compile none/batch 1",
        "resnet8/channels_last/float32/compile none/batch 2/foreach SGD",
    }
    shares = {of for of, metric in rows if metric == "share_of_matrix_peak"}
    assert not [of for of in shares if "bf16" in of], "the peak is that of float32"
    assert len(shares) == 4
    assert "Left out" not in capsys.readouterr().out


def test_what_the_time_does_not_reach_is_named(
    few: Photographs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--seconds", "0.01", "--images", "24", "--batch", "2", "--size", "32", "--minutes", "0.00001")
    beton = ("--beton", str(few.beton.path))
    assert main(["step", *small, *beton, "--picture", str(tmp_path / "step.png")]) == 0
    assert (
        "Left out, for --minutes 1e-05 are over: resnet8/channels_last/float32/compile"
        in capsys.readouterr().out
    )


def test_half_of_the_plan(few: Photographs, tmp_path: Path) -> None:
    out = tmp_path / "settings.json"
    small = ("--seconds", "0.01", "--images", "24", "--batch", "2", "--size", "32", "--rows", "settings")
    outputs = ("--json", str(out), "--picture", str(tmp_path / "step.png"))
    assert main(["step", *small, "--beton", str(few.beton.path), *outputs]) == 0
    names = {row.name for row in read_json(out)["rows"]}
    assert not [name for name in names if "/real " in name]
    assert len([name for name in names if name.endswith("/on device")]) == 4


def test_a_benchmark_that_is_killed_leaves_the_trainers_before(few: Photographs, tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    arguments = ("--seconds", "0.2", "--images", "24", "--batch", "2", "--size", "32", "--json", str(out))
    command = [sys.executable, "tools/benchmark.py", "step", *arguments, "--beton", str(few.beton.path)]
    process = subprocess.Popen(
        [*command, "--picture", str(tmp_path / "step.png")], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 120
        while not out.exists() or not find(read_json(out)["rows"], NAME, "ratio_to_device"):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    rows = read_json(out)["rows"]
    assert find(rows, "step", "unfinished") is not None
    ratio = find(rows, NAME, "ratio_to_device")
    assert ratio is not None and ratio.runs == 5
