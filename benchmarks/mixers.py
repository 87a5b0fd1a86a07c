"""What mixes a batch: ours, plain PyTorch, torch.compile, torchvision v2, timm; all from the same uint8 views.

Each makes 2 n normalised images of the inputs' dtype in channels-last memory: n by MixUp, n by CutMix.
torchvision and timm know no second stream: they mix each image with another one of stream a.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torchvision.transforms import v2

from pipelines.draws.mixing import cut_boxes
from pipelines.mix_cpu import mix_into
from pipelines.mix_reference import mix, normalise
from pipelines.thread_pool import ThreadPool
from pipelines.views import Views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 1000
PAIRS_OF_TASK = 2
"""As the loader's tasks on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """n pairs of views of one size, how they are mixed, and where ours puts the images."""

    views_a: Views
    """Two, (n, S, S, 3) uint8."""
    views_b: Views
    lam: torch.Tensor
    """(n,) float32."""
    cut_boxes: torch.Tensor
    """(n, 4) int32."""
    labels: torch.Tensor
    """(n,) int64, which torchvision and timm mix as well."""
    out: torch.Tensor
    """(2 n, 3, S, S), channels-last."""
    mean: torch.Tensor
    """(3,) float32, on the device, where it is copied once: a copy in each call would make the host wait."""
    std: torch.Tensor

    def needed_bytes(self, channels: int = 3) -> int:
        """Read and written at least: MixUp takes both views of a pair, CutMix one of them at each pixel.

        With four `channels` each pixel of a view has a byte more, and no pixel of the output.
        """
        views = self.views_a[0].numel() // 3 * channels
        return 3 * views + self.out.numel() * self.out.element_size()


Mixer = Callable[[Inputs], object]


def make_inputs(n: int, size: int, dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Noise, λ evenly spread over [0, 1], and boxes as they are drawn for these, with centres at random."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 2 * n, size, size, 3)
    views = [view.to(device) for view in torch.randint(256, shape, dtype=torch.uint8, generator=generator)]
    lam = torch.linspace(0, 1, n)[torch.randperm(n, generator=generator)]
    y, x = torch.randint(size, (2, n), generator=generator).numpy()
    boxes = torch.from_numpy(cut_boxes(lam.numpy(), y, x, size, size))
    return Inputs(
        views_a=[view[:n] for view in views],  # as a decoder leaves them
        views_b=[view[n:] for view in views],
        lam=lam.to(device),
        cut_boxes=boxes.to(device),
        labels=torch.randint(CLASSES, (n,), generator=generator).to(device),
        out=torch.empty((2 * n, size, size, 3), dtype=dtype, device=device).permute(0, 3, 1, 2),
        mean=torch.tensor(MEAN, device=device),
        std=torch.tensor(STD, device=device),
    )


def our_kernel(inputs: Inputs) -> None:
    """One Triton kernel."""
    from pipelines.mix_kernel import mix_views  # Triton is not everywhere

    mix_views(inputs.views_a, inputs.views_b, inputs.lam, inputs.cut_boxes, MEAN, STD, inputs.out)


def our_loop(pool: ThreadPool) -> Mixer:
    """Return the numba loop, over slices of the batch on the threads of a pool."""

    def run(inputs: Inputs) -> None:
        a, b = ([view.numpy() for view in views] for views in (inputs.views_a, inputs.views_b))
        lam, boxes = inputs.lam.numpy(), inputs.cut_boxes.numpy()
        up, cut = inputs.out.permute(0, 2, 3, 1).numpy().reshape(2, *a[0].shape)

        def fill(start: int, stop: int) -> None:
            rows = slice(start, stop)
            views_a, views_b = ([view[rows] for view in views] for views in (a, b))
            mix_into(views_a, views_b, lam[rows], boxes[rows], MEAN, STD, up[rows], cut[rows])

        pool.map_slices(fill, len(lam), PAIRS_OF_TASK)

    return run


def plain_pytorch(inputs: Inputs) -> torch.Tensor:
    """Return what the definition makes, and a cast."""
    return _by(_mix_and_cast, inputs)


def compiled_pytorch() -> Mixer:
    """Return the same through torch.compile."""
    return partial(_by, torch.compile(_mix_and_cast, fullgraph=True))


def _by(mix_and_cast: Callable[..., torch.Tensor], inputs: Inputs) -> torch.Tensor:
    """What `_mix_and_cast`, compiled or not, makes of the inputs."""
    return mix_and_cast(
        inputs.views_a,
        inputs.views_b,
        inputs.lam,
        inputs.cut_boxes,
        inputs.mean,
        inputs.std,
        inputs.out.dtype,
    )


def torchvision_v2() -> Mixer:
    """Return torchvision's transforms: one λ and one box a batch."""
    mix_up, cut_mix = v2.MixUp(num_classes=CLASSES), v2.CutMix(num_classes=CLASSES)

    def run(inputs: Inputs) -> torch.Tensor:
        up, _ = mix_up(_normalised(inputs, 0), inputs.labels)
        cut, _ = cut_mix(_normalised(inputs, 1), inputs.labels)
        return torch.cat([up, cut])

    return run


def timm_mixup(mode: str) -> Mixer:
    """Return timm's Mixup; mode "batch" has one λ and box a batch, "elem" one an image."""
    from timm.data.mixup import Mixup

    settings = {"mode": mode, "num_classes": CLASSES}
    mix_up = Mixup(mixup_alpha=1.0, cutmix_alpha=0.0, **settings)
    cut_mix = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, **settings)

    def run(inputs: Inputs) -> torch.Tensor:
        up, _ = mix_up(_normalised(inputs, 0), inputs.labels)
        cut, _ = cut_mix(_normalised(inputs, 1), inputs.labels)
        return torch.cat([up, cut])

    return run


def other_mixers() -> dict[str, Mixer]:
    """By name, those that work on any device; timm where it is installed."""
    found: dict[str, Mixer] = {"plain-pytorch": plain_pytorch, "torchvision-v2": torchvision_v2()}
    if importlib.util.find_spec("timm"):
        found |= {"timm-batch": timm_mixup("batch"), "timm-elem": timm_mixup("elem")}
    return found


def _mix_and_cast(
    views_a: Views,
    views_b: Views,
    lam: torch.Tensor,
    boxes: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    return mix(views_a, views_b, lam, boxes, mean, std).to(dtype)


def _normalised(inputs: Inputs, view: int) -> torch.Tensor:
    """The images (n, 3, S, S) of stream a, which the transforms take."""
    return normalise(inputs.views_a[view], inputs.mean, inputs.std).to(inputs.out.dtype)
