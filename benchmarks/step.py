"""`step`: what the whole trainer reaches of its own speed without a decoder, and how its settings compare.

Every trainer is measured twice, in turn: on real photographs, and on one batch of uint8 views that lies on its device
already, which it mixes anew for each step. A run is a segment of steps with one wait for the device at its end; what
comes before (compilation, cuDNN's choice of algorithms, batches that lay ready) does not count. The ratio of the two
is what the data path costs. A GPU decoder's kernels take multiprocessors from the network: their time, measured while
the trainer is idle, sets the ceiling of the ratio. On the device alone follow the layouts, precisions, compile modes
and implementations of SGD side by side, and the published batch split over 2, 4 and 8 GPUs, one share of it on this
one. Off a GPU a small network stands in.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import torch

from benchmarks.command import Command, add_beton_option, whole
from benchmarks.dali_trial import refusal_of_dali
from benchmarks.decoder_kernels import ceiling, kernel_milliseconds_per_batch, streams_of
from benchmarks.matrix_peak import matrix_flops_per_second, training_flops_per_image
from benchmarks.measurement import CROP_FLIP, Case, Row, row_of, sum_up, values_in_turn
from benchmarks.photographs import open_photographs
from benchmarks.progress import Progress
from benchmarks.results import Results
from benchmarks.step_phases import phase_milliseconds
from benchmarks.step_plan import DECODERS, Costs, Plan, plan_for_cpu, plan_for_gpu
from benchmarks.trainer import PREFETCH, BenchmarkTrainer, Precision, Segment, TrainerSettings
from pipelines.beton.reader import BetonFile
from pipelines.thread_pool import ThreadPool
from training.process_group import choose_device
from training.step import PRECISIONS, StepInput

RUNS = 5
VIEWS = SOURCES = 2
"""Mixed images of a pair, which the network sees; source images of it, which are decoded once each."""
RATE = "forward_images_per_second"
GOAL = 98.0
"""Percent of the speed without a decoder for the best decoder; of the ceiling for one that takes multiprocessors."""


def run(options: argparse.Namespace) -> Results:
    """Measure the plan until the time is up."""
    device = choose_device("auto", 0)
    on_gpu = device.type == "cuda"
    refusal = refusal_of_dali(device) if on_gpu else None
    if on_gpu:
        decoders = DECODERS if refusal is None else ("cpu",)
        plan = plan_for_gpu(options.batch or 256, options.size or 224, decoders)
    else:
        plan = plan_for_cpu(options.batch or 16, options.size or 64)
    progress: Progress = options.progress
    of_peak: Precision = "bf16" if on_gpu else "float32"
    peaks = matrix_flops_per_second(device, PRECISIONS[of_peak])
    progress.keep(
        [_row([rate / 1e12 for rate in peaks], f"{of_peak} product", "teraflops_per_second", "TFLOP/s")]
    )
    notes: list[str] = []
    with open_photographs(options) as photographs, ThreadPool(options.cores) as pool:
        progress.keep(photographs.rows())

        def measured(settings: TrainerSettings) -> Measured:
            # a CPU may multiply bf16 faster than float32, so the peak of the one says nothing of the other
            peak = max(peaks) if on_gpu or settings.precision == of_peak else None
            return Measured(settings, photographs.beton, device, pool, peak, options.seconds, progress)

        left_out = measure_plan(plan, options.rows, measured, Costs(on_gpu), notes)
    if refusal is not None:
        notes.append(f"The real data are decoded by CPU threads alone, for DALI does not: {refusal}")
    if left_out:
        notes.append(f"Left out, for --minutes {options.minutes:g} are over: {', '.join(left_out)}")
    return Results(
        title="The training step: real data and a batch on the device",
        rows=progress.rows,
        drawn=(RATE, "ratio_to_device", "share_of_matrix_peak", "milliseconds_per_step"),
        notes=notes,
    )


def measure_plan(
    plan: Plan,
    wanted: str,
    measured: Callable[[TrainerSettings], Measured],
    costs: Costs,
    notes: list[str],
) -> list[str]:
    """Measure one trainer after the other; returns the names of those for which there was no time."""
    left_out = []
    real = [(settings, True) for settings in plan.real if wanted != "settings"]
    compared = [(settings, False) for settings in plan.compared if wanted != "data"]
    for settings, with_data in [*real, *compared]:
        each = measured(settings)
        if each.progress.seconds_left() < costs.expected(settings, real=with_data):
            left_out.append(settings.name)
            continue
        print(settings.name, flush=True)
        start = time.monotonic()
        if with_data:
            each.with_data(plan.decoders)
        else:
            each.on_device()
        costs.learn(settings, time.monotonic() - start, real=with_data)
        notes += each.notes
    return left_out


class Measured:
    """Measures one trainer."""

    def __init__(
        self,
        settings: TrainerSettings,
        beton: BetonFile,
        device: torch.device,
        pool: ThreadPool,
        peak: float | None,
        seconds: float,
        progress: Progress,
    ) -> None:
        """`peak` is what the device multiplies at most in the precision of the settings, if that is known."""
        self.settings, self.peak, self.seconds, self.progress = settings, peak, seconds, progress
        self.open = lambda decoders=("cpu",): BenchmarkTrainer(settings, beton, device, pool, decoders)
        self.notes: list[str] = []

    def on_device(self) -> None:
        """Of the batch on the device alone."""
        with closing(self.open()) as trainer:
            steps = trainer.steps_for(self.seconds)
            segments: list[Segment] = []
            case = self._case(trainer, self._on_device, trainer.fixed_batches(), steps, segments)
            [rates] = self._in_turn([case])
            self.progress.keep(self._device_rows(trainer, rates, segments))

    def with_data(self, decoders: Sequence[str]) -> None:
        """Of both, with each decoder, their ratio, and where the time of a step goes."""
        with closing(self.open(decoders)) as trainer:
            on_gpu = trainer.device.type == "cuda"
            # as long as no loader has begun, so that none of its streams is among them
            own = streams_of(lambda: trainer.fixed()) if on_gpu else set()
            steps = trainer.steps_for(self.seconds)
            of_real: list[list[Segment]] = [[] for _ in decoders]
            of_fixed: list[Segment] = []
            batches = [trainer.real_batches(decode) for decode in decoders]
            names = [f"{self.settings.name}/real {decode}" for decode in decoders]
            cases = [
                self._case(trainer, name, each, steps, segments)
                for name, each, segments in zip(names, batches, of_real, strict=True)
            ]
            cases.append(self._case(trainer, self._on_device, trainer.fixed_batches(), steps, of_fixed))
            *real, fixed = self._in_turn(cases)
            self.progress.keep(self._device_rows(trainer, fixed, of_fixed))
            ratios = {}
            for name, rates, segments in zip(names, real, of_real, strict=True):
                rows = self._real_rows(name, rates, fixed, segments)
                ratios[name] = find_median(rows, "ratio_to_device")
                self.progress.keep(rows)
            self.notes.append(best_decoder(self.settings.name, ratios))
            if on_gpu:
                step = find_median(_step_rows("", of_fixed, len(fixed)), "milliseconds_per_step")
                for name, each in zip(names, batches, strict=True):
                    spent = kernel_milliseconds_per_batch(each, PREFETCH, own)
                    self.progress.keep(self._ceiling_rows(name, spent, step, ratios[name]))
            for name, each in zip(
                [self._on_device, *names], [trainer.fixed_batches(), *batches], strict=True
            ):
                self.progress.keep(self._phase_rows(trainer, name, each, steps))

    def _in_turn(self, cases: Sequence[Case]) -> list[list[float]]:
        return values_in_turn(
            cases, RUNS, after_round=self.progress.rounds(lambda values: sum_up(cases, values))
        )

    def _real_rows(
        self, name: str, rates: Sequence[float], fixed: Sequence[float], segments: Sequence[Segment]
    ) -> list[Row]:
        decodes = [rate * SOURCES / VIEWS for rate in rates]
        ratios = [100 * a / b for a, b in zip(rates, fixed, strict=True)]
        waits = [1000 * each.waited / each.steps for each in segments[-len(rates) :]]
        return [
            _row(rates, name, RATE, "images/s"),
            _row(decodes, name, "source_decodes_per_second", "images/s"),
            _row(ratios, name, "ratio_to_device", "%"),
            *_step_rows(name, segments, len(rates)),
            _row(waits, name, "host_wait_in_loader_milliseconds", "ms"),
        ]

    @property
    def _on_device(self) -> str:
        return f"{self.settings.name}/on device"

    def _case(
        self,
        trainer: BenchmarkTrainer,
        name: str,
        batches: Iterator[StepInput],
        steps: int,
        segments: list[Segment],
    ) -> Case:
        """Forward images a second of a segment, which is kept."""

        def measure() -> float:
            segments.append(trainer.run(batches, steps))
            return VIEWS * self.settings.batch * steps / segments[-1].seconds

        return Case(name=name, metric=RATE, unit="images/s", augmentation=CROP_FLIP, measure=measure)

    def _device_rows(
        self, trainer: BenchmarkTrainer, rates: Sequence[float], segments: Sequence[Segment]
    ) -> list[Row]:
        rows = [
            _row(rates, self._on_device, RATE, "images/s"),
            *_step_rows(self._on_device, segments, len(rates)),
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

    def _ceiling_rows(self, name: str, spent: float, step: float, ratio: float) -> list[Row]:
        """What the decoder's kernels leave of the multiprocessors, and how much of that is reached."""
        most = ceiling(step, spent)
        reached = 100 * ratio / most
        self.notes.append(
            f"{name}: {ratio:.1f} % of the step without a decoder, {reached:.1f} % of the ceiling of {most:.1f} % "
            f"that its own kernels leave; goal {GOAL:g} %: {verdict(reached)}"
        )
        return [
            _row([spent], name, "data_kernels_milliseconds_per_step", "ms"),
            _row([most], name, "ceiling", "%"),
            _row([reached], name, "share_of_ceiling", "%"),
        ]


def best_decoder(name: str, ratios: Mapping[str, float]) -> str:
    """Say which real data come nearest to the batch on the device; `ratios` are percent, by the name of the rows."""
    best = max(ratios, key=lambda each: ratios[each])
    return (
        f"{name}: best with {best.removeprefix(f'{name}/')}, {ratios[best]:.1f} % of the step without a decoder; "
        f"goal {GOAL:g} % outright: {verdict(ratios[best])}"
    )


def verdict(percent: float) -> str:
    """Say whether the goal is reached."""
    return "reached" if percent >= GOAL else "missed"


def find_median(rows: Sequence[Row], metric: str) -> float:
    """Return the median of the row of this metric."""
    return next(row.median for row in rows if row.metric == metric)


def _step_rows(name: str, segments: Sequence[Segment], runs: int) -> list[Row]:
    spans = [1000 * each.seconds / each.steps for each in segments[-runs:]]
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
        "--rows",
        choices=("all", "data", "settings"),
        default="all",
        help="data: real data beside a batch on the device; settings: the settings side by side (default: all)",
    )


COMMAND = Command(
    name="step",
    summary="the training step: real data against a batch on the device; settings side by side",
    text=__doc__,
    run=run,
    seconds=2.0,
    minutes=15.0,
    add_options=add_options,
)
