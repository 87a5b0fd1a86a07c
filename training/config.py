"""Everything a run can be told, as frozen dataclasses; the text under a field is its `--help`.

Defaults are written here (or in the dataclass of `pipelines` that a section is) and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pipelines.dali_graph import DaliSettings
from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewSettings
from pipelines.open_images import parse_decode
from pipelines.user_error import UserError
from training.fast_kernels import CompileSetting
from training.objectives import GlmcSettings
from training.optimizer import Implementation
from training.schedule import learning_rate


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which betons, and how the host feeds them."""

    train: str
    """Beton to learn from; `fasttail-convert` makes one."""
    val: str | None = None
    """Beton that chooses the best epoch. Without it `data.test` does, as in the literature, and the report says
    so."""
    test: str | None = None
    """Beton that the reported accuracy is measured on."""
    decode: str = "auto"
    """Who decodes: dali-gpu (auto, with a GPU), cpu (auto, without), dali-cpu (DALI's operators for a CPU), or
    split:SHARE (CPU threads decode that share of the images for a GPU, DALI the rest)."""
    threads: int = 0
    """Threads that decode, augment and mix. 0: this process's share of the processors."""
    prefetch: int = 2
    """Batches prepared ahead of the training step."""
    stage: Literal["none", "local", "ram"] = "none"
    """Copy the betons once a node, checked against their manifests, before anything starts: local, to a disk of this
    machine; ram, to its memory. none: read them where they are."""
    stage_folder: str | None = None
    """Where the copies lie and stay. Default: a folder of yours in $TMPDIR (local) or in /dev/shm (ram)."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """The reversed stream of a method that mixes."""

    q: float = 0.2
    """Class probability ∝ n_c^(1-q): 0 is uniform over images, 1 class-balanced, 2 BBN's reversed sampler. The
    paper (4.4) wants it below 0.4."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone and heads."""

    backbone: str = "resnext50_32x4d"
    """resnet50, resnext50_32x4d (torchvision); resnet18_cifar, resnet34_cifar, resnet50_cifar (3x3 stem, no
    max-pool); resnet32, resnet8 (the CIFAR family of He et al. 2016)."""
    width: int | None = None
    """Channels of the first stage, for resnet32 and resnet8 only: 16 (everyone) or 64 (GLMC's code). Default 16."""
    projection_dim: int | None = None
    """Dimensions of projection and predictor. Default 128 for resnet32 and resnet8, 256 otherwise (GLMC's code)."""
    joint_forward: bool = False
    """Both views in one pass with common BatchNorm statistics; false is two passes, as published."""
    sync_batchnorm: bool = False
    """BatchNorm statistics over the global batch instead of each process's share; on GPUs only. Not published;
    with it, weights depend less on the number of processes."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """SGD without Nesterov, weight decay on every parameter, as the official code has it."""

    epochs: int
    """Passes over the uniform stream."""
    batch_size: int
    """N, source pairs of the global batch (the official `-b`); the network sees 2N mixed images with GLMC."""
    lr: float
    """Base learning rate, for the global batch or, with `lr_scaling`, for one of `lr_reference_batch` pairs."""
    lr_scaling: Literal["none", "linear"] = "none"
    """linear: multiply `lr` by batch_size / lr_reference_batch (Goyal et al. 2017); none: as configured."""
    lr_reference_batch: int = 128
    """Source pairs for which `lr` is meant, with lr_scaling linear; 128 is the published batch of iNaturalist."""
    accumulate: int = 1
    """Parts of a process's share of the batch, computed one after the other in less memory before one update. Each
    part has BatchNorm statistics of its own."""
    schedule: Literal["cosine", "warmup-cosine-cvpr", "warmup-cosine-head"] = "cosine"
    """Of the learning rate, by epoch: cosine (official on CIFAR), or 10 epochs of warm-up before it as in the
    generation `cvpr` or `head` (the latter with its off-by-one); see training/schedule.py."""
    momentum: float = 0.9
    """Momentum of SGD (hard-coded in the official code)."""
    weight_decay: float = 2e-4
    """L2 penalty on every parameter, BatchNorm and biases included (official, ImageNet-LT)."""
    implementation: Implementation = "auto"
    """How SGD is computed: foreach, or one fused kernel; the same arithmetic up to rounding. auto: fused on a GPU, but
    foreach with fp16, where fused is refused; PyTorch's default on a CPU."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the run lives and how it computes."""

    folder: str
    """Folder of the run. One that holds an unfinished run is continued."""
    seed: int = 0
    """Of the initial weights and of every draw, in [0, 2^63)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Of the backbone under autocast; heads and losses are float32. auto: bf16 on a GPU that has it, float32
    on a CPU."""
    compile: CompileSetting = "auto"
    """Mode of torch.compile for the training step's model; none: not compiled. auto: default on a GPU, none on a CPU.
    It takes its time at the start, and what it gains depends on the network (grouped convolutions, small batches):
    `tools/benchmark.py step` compares."""
    cuda_graph: bool = False
    """The whole step, data included, as one CUDA graph, the set held in device memory: for small images and networks
    (view.crop padded) on one GPU, where launching the kernels of a step takes longer than they do."""
    deterministic: bool = False
    """Compute the same bits each time on a GPU, by slower kernels, so that a run that was stopped ends with those of an
    undisturbed one. With DALI's decoder there, dali.hardware_share must be 0 or 1: its engines differ in a few pixels.
    A CPU does so without it."""
    log_steps: int = 50
    """Steps between two log entries; the end of an epoch is always logged."""
    eval_epochs: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    max_bad_steps: int = 10
    """Steps in a row with a loss or a gradient that is not finite after which the run stops and names the images.
    Each of them leaves the weights alone."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often a run is saved, besides at the end of each epoch, and what is kept."""

    minutes: float = 10.0
    """Longest time in minutes between two checkpoints, also within an epoch."""
    keep: int = 2
    """Checkpoints kept, the newest first; the best epoch's is always kept."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    method: Literal["ce", "glmc"]
    """ce: cross-entropy on plain images. glmc: Du et al., CVPR 2023."""
    data: DataConfig
    dali: DaliSettings = field(default_factory=DaliSettings)
    view: ViewSettings = field(default_factory=ViewSettings)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    mix: MixSettings = field(default_factory=MixSettings)
    glmc: GlmcSettings = field(default_factory=GlmcSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig
    run: RunConfig
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for name, value in _positive(self):
            if value <= 0:
                raise UserError(f"{name} is {value}: it must be above 0")
        optim = self.optim
        for name, value in (
            ("sampler.q", self.sampler.q),
            ("optim.momentum", optim.momentum),
            ("optim.weight_decay", optim.weight_decay),
        ):
            if not value >= 0:
                raise UserError(f"{name} is {value}: it must be 0 or more")
        learning_rate(
            optim.schedule, self.base_lr, 0, optim.epochs
        )  # refuses a run that ends with its warm-up
        if not 0 <= self.run.seed < 2**63:
            raise UserError(f"run.seed is {self.run.seed}: it must lie in [0, 2^63)")
        if self.data.threads < 0:
            raise UserError(f"data.threads is {self.data.threads}: it must be 0 (automatic) or more")
        parse_decode(self.data.decode)
        if optim.accumulate > 1 and self.run.compile == "reduce-overhead":
            raise UserError(
                "optim.accumulate does not go with run.compile reduce-overhead, whose captured graphs write the "
                "gradients of every part to the same memory: use run.compile default"
            )
        for name, why in _without_effect(self):
            raise UserError(f"{name} has no effect with {why}: remove one of the two")

    @property
    def base_lr(self) -> float:
        """Learning rate before the schedule's factor, for the global batch."""
        optim = self.optim
        scaled = optim.lr_scaling == "linear"
        return optim.lr * optim.batch_size / optim.lr_reference_batch if scaled else optim.lr

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as YAML and JSON hold them (tuples become lists)."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def _positive(config: Config) -> Iterator[tuple[str, float]]:
    """Settings that only make sense above zero."""
    optim, run = config.optim, config.run
    yield from [
        ("optim.epochs", optim.epochs),
        ("optim.batch_size", optim.batch_size),
        ("optim.lr", optim.lr),
        ("optim.lr_reference_batch", optim.lr_reference_batch),
        ("optim.accumulate", optim.accumulate),
    ]
    yield from [("run.log_steps", run.log_steps), ("run.eval_epochs", run.eval_epochs)]
    yield from [("data.prefetch", config.data.prefetch), ("run.max_bad_steps", run.max_bad_steps)]
    yield from [
        ("checkpoint.minutes", config.checkpoint.minutes),
        ("checkpoint.keep", config.checkpoint.keep),
    ]


def _without_effect(config: Config) -> Iterator[tuple[str, str]]:
    """Settings that were changed although nothing reads them, and the setting that is why."""
    if config.method != "glmc":
        for section in ("sampler", "mix", "glmc"):
            changed = _changed(getattr(config, section))
            yield from ((f"{section}.{name}", f"method {config.method}") for name in changed)
        if config.model.joint_forward:
            yield "model.joint_forward", f"method {config.method}"
    if config.optim.lr_scaling == "none" and "lr_reference_batch" in _changed(config.optim):
        yield "optim.lr_reference_batch", "optim.lr_scaling none"
    if config.data.stage == "none" and config.data.stage_folder is not None:
        yield "data.stage_folder", "data.stage none"
    unread = ("pad",) if config.view.crop == "resized" else ("scale", "eval_resize")
    for name in _changed(config.view):
        if name in unread:
            yield f"view.{name}", f"view.crop {config.view.crop}"
    yield from _without_effect_on_decoding(config)


def _without_effect_on_decoding(config: Config) -> Iterator[tuple[str, str]]:
    """The same of the settings of decoders."""
    if config.view.crop == "padded" and config.data.decode != "auto":
        yield "data.decode", "view.crop padded, which decodes nothing"
    gpu_only = ("hardware_share", "huffman_threshold")
    for name in _changed(config.dali):
        if config.view.crop == "padded":
            yield f"dali.{name}", "view.crop padded, which decodes nothing"
        elif config.data.decode == "cpu" or (config.data.decode == "dali-cpu" and name in gpu_only):
            yield f"dali.{name}", f"data.decode {config.data.decode}"


def _changed(settings: Any) -> list[str]:
    """Fields of a dataclass that do not have their default."""
    return [each.name for each in fields(settings) if getattr(settings, each.name) != each.default]
