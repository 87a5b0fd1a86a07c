"""`step`: what the whole trainer reaches of its own speed without a decoder, and how its settings compare.

Every trainer is measured twice, in turn: on real photographs, and on one batch of uint8 views that lies on its device
already, which it mixes anew for each step. A run is a segment of steps with one wait for the device at its end; what
comes before (compilation, cuDNN's choice of algorithms, batches that lay ready) does not count. The ratio of the two
is what the data path costs. On the device alone follow the layouts, precisions and compile modes side by side, and
the published batch split over 2, 4 and 8 GPUs, one share of it on this one. Off a GPU a small network stands in.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product

import torch

from benchmarks.command import Command, add_beton_option, seconds, whole
from benchmarks.gpu_kernels import kernel_milliseconds
from benchmarks.matrix_peak import matrix_flops_per_second, training_flops_per_image
from benchmarks.measurement import CROP_FLIP, Case, Row, row_of, values_in_turn
from benchmarks.photographs import open_photographs
from benchmarks.results import Results
from benchmarks.step_phases import phase_milliseconds
from benchmarks.trainer import BenchmarkTrainer, Layout, Precision, Segment, TrainerSettings
from pipelines.beton_reader import BetonFile
from pipelines.thread_pool import ThreadPool
from training.fast_kernels import CompileSetting
from training.process_group import choose_device
from training.step import PRECISIONS, StepInput

RUNS = 5
VIEWS = SOURCES = 2
"""Mixed images of a pair, which the network sees; source images of it, which are decoded once each."""
PUBLISHED = (60, 30, 15)
"""Pairs of a GPU: the published batch of 120 on 2, 4 and 8 of them."""
VARIANTS: tuple[tuple[Layout, Precision, CompileSetting], ...] = (
    ("channels_last", "bf16", "none"),
    ("contiguous", "bf16", "none"),
    ("channels_last", "fp16", "none"),
    ("channels_last", "float32", "none"),
    ("contiguous", "bf16", "default"),
    ("channels_last", "fp16", "default"),
)
DECODERS = ("dali-gpu", "cpu", "split:0.3")
MODES_OF_SHARES: tuple[CompileSetting, ...] = ("none", "default", "reduce-overhead")
GOAL = 98.0
"""Percent of the ceiling that a GPU decoder's own use of the multiprocessors leaves."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, the most important first."""

    real: Sequence[TrainerSettings]
    """On photographs and on the device."""
    compared: Sequence[TrainerSettings]
    """On the device alone."""
    decoders: Sequence[str]
    """Values of `data.decode` that the real data are decoded with."""


def plan_for_gpu(batch: int, size: int) -> Plan:
    """ResNeXt-50 and ResNet-50, as the trainer runs them by default, then what else it could do."""
    base = TrainerSettings(backbone="resnext50_32x4d", batch=batch, size=size, compile="default")
    networks = (base, replace(base, backbone="resnet50"))
    variants = [
        replace(network, layout=layout, precision=precision, compile=mode)
        for (layout, precision, mode), network in product(VARIANTS, networks)
    ]
    shares = [replace(base, batch=share, compile=mode) for share, mode in product(PUBLISHED, MODES_OF_SHARES)]
    return Plan(real=networks, compared=[*variants[:8], *shares, *variants[8:]], decoders=decoders_here())


def decoders_here() -> Sequence[str]:
    """Those that this machine has the libraries for."""
    try:
        dali = importlib.util.find_spec("nvidia.dali")
    except ModuleNotFoundError:  # not even the package that it is a part of
        dali = None
    return ("cpu",) if dali is None else DECODERS


def plan_for_cpu(batch: int, size: int) -> Plan:
    """A small network, not compiled: compilation takes longer than the measurement."""
    base = TrainerSettings(backbone="resnet8", batch=batch, size=size, precision="float32")
    others = (replace(base, layout="contiguous"), replace(base, precision="bf16"))
    return Plan(real=[base], compared=[*others, replace(base, batch=max(1, batch // 2))], decoders=("cpu",))


def run(options: argparse.Namespace) -> Results:
    """Measure the plan until the time is up."""
    device = choose_device("auto", 0)
    on_gpu = device.type == "cuda"
    plan = (plan_for_gpu if on_gpu else plan_for_cpu)(
        options.batch or (256 if on_gpu else 16), options.size or (224 if on_gpu else 64)
    )
    deadline = time.monotonic() + 60 * options.minutes
    of_peak: Precision = "bf16" if on_gpu else "float32"
    peaks = matrix_flops_per_second(device, PRECISIONS[of_peak])
    rows = [_row([rate / 1e12 for rate in peaks], f"{of_peak} product", "teraflops_per_second", "TFLOP/s")]
    notes, left_out = [], []
    with open_photographs(options) as photographs, ThreadPool(options.cores) as pool:
        rows += photographs.rows()
        for settings in [*plan.real, *plan.compared]:
            if time.monotonic() > deadline:
                left_out.append(settings.name)
                continue
            print(settings.name, flush=True)
            # a CPU may multiply bf16 faster than float32, so the peak of the one says nothing of the other
            peak = max(peaks) if on_gpu or settings.precision == of_peak else None
            measured = Measured(settings, photographs.beton, device, pool, peak, options.seconds)
            rows += measured.with_data(plan.decoders) if settings in plan.real else measured.on_device()
            notes += measured.notes
    if on_gpu and len(plan.decoders) < len(DECODERS):
        notes.append("DALI is not installed here: the real data are decoded by CPU threads alone")
    if left_out:
        notes.append(f"Left out after --minutes {options.minutes:g}: {', '.join(left_out)}")
    return Results(
        title="The training step: real data and a batch on the device",
        rows=rows,
        drawn=(
            "forward_images_per_second",
            "ratio_to_device",
            "share_of_matrix_peak",
            "milliseconds_per_step",
        ),
        notes=notes,
    )


class Measured:
    """The rows of one trainer."""

    def __init__(
        self,
        settings: TrainerSettings,
        beton: BetonFile,
        device: torch.device,
        pool: ThreadPool,
        peak: float | None,
        seconds: float,
    ) -> None:
        self.settings, self.peak, self.seconds = settings, peak, seconds
        self.open = lambda decoders=("cpu",): BenchmarkTrainer(settings, beton, device, pool, decoders)
        self.notes: list[str] = []

    def on_device(self) -> list[Row]:
        """Of the batch on the device alone."""
        with closing(self.open()) as trainer:
            steps = trainer.steps_for(self.seconds)
            segments: list[Segment] = []
            rates = values_in_turn([self._case(trainer, trainer.fixed_batches(), steps, segments)], RUNS)
            return self._device_rows(trainer, rates[0], segments)

    def with_data(self, decoders: Sequence[str]) -> list[Row]:
        """Of both, with each decoder, their ratio, and where the time of a step goes."""
        with closing(self.open(decoders)) as trainer:
            steps = trainer.steps_for(self.seconds)
            of_real: list[list[Segment]] = [[] for _ in decoders]
            of_fixed: list[Segment] = []
            cases = [
                self._case(trainer, trainer.real_batches(decode), steps, segments)
                for decode, segments in zip(decoders, of_real, strict=True)
            ]
            fixed_case = self._case(trainer, trainer.fixed_batches(), steps, of_fixed)
            *real, fixed = values_in_turn([*cases, fixed_case], RUNS)
            rows = [
                *self._device_rows(trainer, fixed, of_fixed),
                *self._phase_rows(trainer, self._on_device, trainer.fixed_batches(), steps),
            ]
            for decode, rates, segments in zip(decoders, real, of_real, strict=True):
                rows += self._real_rows(trainer, decode, rates, fixed, segments)
            return rows

    def _real_rows(
        self,
        trainer: BenchmarkTrainer,
        decode: str,
        rates: Sequence[float],
        fixed: Sequence[float],
        segments: Sequence[Segment],
    ) -> list[Row]:
        name, counted = f"{self.settings.name}/real {decode}", segments[-RUNS:]
        steps, batches = counted[0].steps, trainer.real_batches(decode)
        decodes = [rate * SOURCES / VIEWS for rate in rates]
        ratios = [100 * a / b for a, b in zip(rates, fixed, strict=True)]
        waits = [1000 * each.waited / each.steps for each in counted]
        rows = [
            _row(rates, name, "forward_images_per_second", "images/s"),
            _row(decodes, name, "source_decodes_per_second", "images/s"),
            _row(ratios, name, "ratio_to_device", "%"),
            *_step_rows(name, counted),
            _row(waits, name, "host_wait_in_loader_milliseconds", "ms"),
            *self._phase_rows(trainer, name, batches, steps),
        ]
        if trainer.device.type == "cuda":
            rows += self._ceiling_rows(trainer, batches, rows, steps)
        return rows

    @property
    def _on_device(self) -> str:
        return f"{self.settings.name}/on device"

    def _case(
        self, trainer: BenchmarkTrainer, batches: Iterator[StepInput], steps: int, segments: list[Segment]
    ) -> Case:
        """Forward images a second of a segment, which is kept."""

        def measure() -> float:
            segments.append(trainer.run(batches, steps))
            return VIEWS * self.settings.batch * steps / segments[-1].seconds

        return Case(
            name=self.settings.name,
            metric="forward_images_per_second",
            unit="images/s",
            augmentation=CROP_FLIP,
            measure=measure,
        )

    def _device_rows(
        self, trainer: BenchmarkTrainer, rates: Sequence[float], segments: Sequence[Segment]
    ) -> list[Row]:
        rows = [
            _row(rates, self._on_device, "forward_images_per_second", "images/s"),
            *_step_rows(self._on_device, segments),
        ]
        if self.peak is not None:
            flops = training_flops_per_image(trainer.model, self.settings.size)
            shares = [100 * rate * flops / self.peak for rate in rates]
            rows.append(_row(shares, self._on_device, "share_of_matrix_peak", "%"))
        return rows

    def _phase_rows(
        self, trainer: BenchmarkTrainer, name: str, batches: Iterator[StepInput], steps: int
    ) -> list[Row]:
        trainer.run(batches, 1)
        phases = phase_milliseconds(trainer.step, batches, trainer.alpha, steps)
        return [_row(spans, name, f"{phase}_milliseconds_per_step", "ms") for phase, spans in phases.items()]

    def _ceiling_rows(
        self, trainer: BenchmarkTrainer, batches: Iterator[StepInput], rows: Sequence[Row], steps: int
    ) -> list[Row]:
        """What the data path's own kernels leave of the multiprocessors, and how much of that is reached."""
        name, median = rows[0].name, {row.metric: row.median for row in rows}
        own = kernel_milliseconds(lambda: trainer.run(trainer.fixed_batches(), steps))
        both = kernel_milliseconds(lambda: trainer.run(batches, steps))
        besides = sum(spent for stream, spent in both.items() if stream not in own)
        each = besides / (steps + trainer.steps_before)
        ceiling = 100 * (1 - each / median["milliseconds_per_step"])
        reached = 100 * median["ratio_to_device"] / ceiling
        verdict = "reached" if reached >= GOAL else "missed"
        self.notes.append(
            f"{name}: {median['ratio_to_device']:.1f} % of the step without a decoder, {reached:.1f} % of the ceiling "
            f"of {ceiling:.1f} % that its own kernels leave; goal {GOAL:g} %: {verdict}"
        )
        return [
            _row([each], name, "data_kernels_milliseconds_per_step", "ms"),
            _row([ceiling], name, "ceiling", "%"),
            _row([reached], name, "share_of_ceiling", "%"),
        ]


def _step_rows(name: str, segments: Sequence[Segment]) -> list[Row]:
    spans = [1000 * each.seconds / each.steps for each in segments[-RUNS:]]
    return [_row(spans, name, "milliseconds_per_step", "ms")]


def _row(values: Sequence[float], name: str, metric: str, unit: str) -> Row:
    augmentation = CROP_FLIP if "/" in name else "none"
    return row_of(values, name=name, metric=metric, unit=unit, augmentation=augmentation)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what bounds the trainers."""
    add_beton_option(parser)
    parser.add_argument(
        "--batch", type=whole, metavar="N", help="pairs of a step (default: 256 on a GPU, 16 on a CPU)"
    )
    parser.add_argument(
        "--size", type=whole, metavar="PIXELS", help="side of a view (default: 224 on a GPU, 64 on a CPU)"
    )
    parser.add_argument(
        "--minutes",
        type=seconds,
        default=5.0,
        metavar="M",
        help="start no further trainer after this long (default: %(default)g); those left out are named",
    )


COMMAND = Command(
    name="step",
    summary="the training step: real data against a batch on the device; settings side by side",
    text=__doc__,
    run=run,
    seconds=2.0,
    add_options=add_options,
)
