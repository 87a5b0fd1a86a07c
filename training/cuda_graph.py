"""The whole step, data included, as one CUDA graph, for networks whose kernels are shorter than their launches.

The graph holds one call of `TrainStep` with `ResidentLoader.take`: gather the step's draws by the counter on the
device, make the images, forward, loss, backward, update, count on. What changes from step to step or from epoch to
epoch (draws, counter, α, learning rate) is memory that the graph reads; nothing of it is frozen.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipelines.batch import Batch
from pipelines.user_error import UserError
from training.config import Config
from training.process_group import ProcessGroup
from training.step import StepInput, TrainStep

EAGER_STEPS = 3
"""Before the graph is recorded: torch.compile, cuDNN and the optimizer then have all that they set up once."""


def check_graph(config: Config, group: ProcessGroup, precision: torch.dtype) -> None:
    """Refuse `run.cuda_graph` where a graph cannot hold the step."""
    reasons = {
        "it needs a GPU": group.device.type != "cuda",
        "it is for one process": group.world_size > 1,
        "it needs view.crop padded, images small enough for device memory": config.view.crop != "padded",
        "it leaves colours alone: set view.augment none": config.view.augment != "none",
        "with fp16 SGD is foreach, which asks the host: set run.precision bf16 or float32": precision
        == torch.float16,
        "foreach SGD asks the host for its learning rate: set optim.implementation auto or fused": (
            config.optim.implementation == "foreach"
        ),
        "run.compile reduce-overhead records graphs of its own: set default or none": (
            config.run.compile == "reduce-overhead"
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"run.cuda_graph is set, but {reason}")


@dataclass
class GraphStep(TrainStep):
    """The same step; the first `EAGER_STEPS` run as ever, then one is recorded, and from there on it is replayed.

    Its learning rate must be a tensor on the device, its optimizer fused. The metrics of a step are overwritten by the
    next one.
    """

    _graph: torch.cuda.CUDAGraph | None = field(default=None, init=False)
    _metrics: dict[str, Tensor] = field(default_factory=dict, init=False)
    _inputs: tuple[object, Tensor] | None = field(default=None, init=False)
    """The batch's maker and α: what the graph has taken in."""
    _eager_steps: int = field(default=0, init=False)

    def __call__(self, batch: StepInput, alpha: Tensor) -> dict[str, Tensor]:
        """As `TrainStep`, for the same `batch`, a function, and the same `alpha`, a tensor, every time."""
        if self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            return self._on_the_recording_stream(batch, alpha)
        if self._graph is None:
            self._record(batch, alpha)
        assert self._graph is not None and self._inputs is not None
        assert self._inputs[0] == batch and self._inputs[1] is alpha
        self._graph.replay()
        return self._metrics

    def _on_the_recording_stream(self, batch: StepInput, alpha: Tensor) -> dict[str, Tensor]:
        """One step on the stream that the graph will be recorded on, in order with everything else."""
        here, stream = torch.cuda.current_stream(), self._stream
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            metrics = super().__call__(batch, alpha)
        here.wait_stream(stream)
        for value in metrics.values():
            value.record_stream(here)
        return metrics

    def _record(self, batch: StepInput, alpha: Tensor) -> None:
        """Record a step without running it: nothing changes yet, weights and counter included."""
        assert not isinstance(batch, Batch), "a graph would train on this one batch for ever"
        # Gradients of the eager steps must not be what the recorded backward pass adds to.
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()  # else graphs and events of an earlier run may be destroyed while this one is recorded
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are recorded: another one draws the next epoch into pinned memory meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._metrics = super().__call__(batch, alpha)
        self._graph, self._inputs = graph, (batch, alpha)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._stream = torch.cuda.Stream(self.device)
