"""What the benchmark of the step measures, the most important first, and how long each part of it may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from benchmarks.trainer import TrainerSettings
from training.fast_kernels import CompileSetting

PUBLISHED = (30, 15, 60)
"""Pairs of a GPU: the published batch of 120 on 4, 8 and 2 of them."""
DECODERS = ("dali-gpu", "cpu", "split:0.3")
COMPILED_SHARES: tuple[CompileSetting, ...] = ("reduce-overhead", "default")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which trainers."""

    real: Sequence[TrainerSettings]
    """On photographs and on the device."""
    compared: Sequence[TrainerSettings]
    """On the device alone."""
    decoders: Sequence[str]
    """Values of `data.decode` that the real data are decoded with."""


def plan_for_gpu(batch: int, size: int, decoders: Sequence[str] = DECODERS) -> Plan:
    """ResNeXt-50 and ResNet-50, as the trainer runs them by default, then what else it could do.

    Those that need no compilation take a few seconds, so they come first.
    """
    base = TrainerSettings(backbone="resnext50_32x4d", batch=batch, size=size, compile="default")
    eager, other = replace(base, compile="none"), replace(base, backbone="resnet50")
    compared = [
        eager,
        replace(eager, implementation="foreach"),
        replace(eager, layout="contiguous"),
        replace(other, compile="none"),
        *(replace(eager, batch=share) for share in PUBLISHED),
        replace(eager, precision="fp16"),
        replace(eager, precision="float32"),
        replace(other, compile="none", layout="contiguous"),
        *(replace(base, batch=PUBLISHED[0], compile=mode) for mode in COMPILED_SHARES),
        replace(base, layout="contiguous"),
        replace(base, precision="fp16"),
        *(replace(base, batch=share, compile=mode) for share in PUBLISHED[1:] for mode in COMPILED_SHARES),
        replace(other, layout="contiguous"),
        replace(other, compile="none", precision="fp16"),
        replace(other, compile="none", precision="float32"),
    ]
    return Plan(real=(base, other), compared=compared, decoders=decoders)


def plan_for_cpu(batch: int, size: int) -> Plan:
    """A small network, not compiled: compilation takes longer than the measurement."""
    base = TrainerSettings(backbone="resnet8", batch=batch, size=size, precision="float32")
    others = (
        replace(base, layout="contiguous"),
        replace(base, precision="bf16"),
        replace(base, implementation="foreach"),
    )
    return Plan(real=[base], compared=[*others, replace(base, batch=max(1, batch // 2))], decoders=("cpu",))


Kind = tuple[bool, bool]
"""(with real data, compiled)."""
GUESSES: dict[Kind, float] = {
    (False, False): 15.0,
    (False, True): 60.0,
    (True, False): 60.0,
    (True, True): 120.0,
}
"""Seconds that a trainer is given on a GPU as long as none of its kind has been measured: guesses, no figures."""


@dataclass
class Costs:
    """What the trainers of each kind took, so that none is begun that would not end in time."""

    on_gpu: bool
    longest: dict[Kind, float] = field(default_factory=dict)
    """Seconds."""

    def expected(self, settings: TrainerSettings, *, real: bool) -> float:
        """Seconds of a trainer: as long as the longest of its kind."""
        kind = (real, settings.compile != "none")
        return self.longest.get(kind, GUESSES[kind] if self.on_gpu else 0.0)

    def learn(self, settings: TrainerSettings, spent: float, *, real: bool) -> None:
        """Take in what a trainer took, seconds."""
        kind = (real, settings.compile != "none")
        self.longest[kind] = max(spent, self.longest.get(kind, 0.0))
