"""Draw what the network will see: source images with their partners, crops, λ and cut boxes.

    python tools/preview.py --config configs/digits_lt_glmc.yaml --out pairs.png

A row is a pair. The images are those of the run itself: the same draws, decoder and mix as in training.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from pipelines.batch import Batch
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.draws.views import ViewDraws, ViewSettings
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool, available_cpus
from pipelines.train_loader import PairedLoader
from pipelines.user_error import UserError, run_command
from training.build import build_image_works, build_ordinary_loader
from training.command_line import build_parser, parse_config
from training.process_group import choose_device

COLOURS = ("tab:blue", "tab:orange")
"""Of the crop for MixUp and the crop for CutMix."""


def main(arguments: list[str] | None = None) -> int:
    """Write the grid; returns the exit status."""
    return run_command("preview", lambda: _preview(arguments))


def _preview(arguments: list[str] | None) -> int:
    parser = build_parser("preview", "Draw what the network will see: pairs, crops, λ and cut boxes.")
    parser.add_argument("--out", default="preview.png", help="picture to write (PNG)")
    parser.add_argument("--step", type=int, default=0, help="which step of the run, 0-based")
    parser.add_argument("--pairs", type=int, default=6, help="rows of the grid")
    config, flags = parse_config(parser, arguments)
    beton = open_beton(config.data.train)
    device = choose_device(config.run.device, 0)
    ranks = RankSlice(0, 1)
    with ThreadPool(config.data.threads or available_cpus()) as pool:
        loader = build_ordinary_loader(config, beton, ranks, build_image_works(config, ranks, device, pool))
        if not isinstance(loader, PairedLoader):
            raise UserError(f"method {config.method} mixes nothing: preview shows pairs, as method glmc has")
        if not 0 <= flags.step < loader.total_steps:
            raise UserError(f"--step is {flags.step}: the run has steps 0 to {loader.total_steps - 1}")
        figure = draw_pairs(loader, beton, flags.step, min(flags.pairs, loader.local_batch))
    try:
        Path(flags.out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(flags.out, dpi=110)
    except OSError as error:
        raise UserError(f"--out {flags.out} cannot be written ({error.strerror}); choose another") from None
    print(f"Picture: {flags.out}")
    return 0


def draw_pairs(loader: PairedLoader, beton: BetonFile, step: int, pairs: int) -> Figure:
    """The first `pairs` pairs of a step: source a, source b, MixUp image, CutMix image."""
    views_a, views_b, mixing = loader.draw_step(step)
    batch = loader.start(step).result()
    figure = Figure(figsize=(10, 2.5 * pairs), layout="constrained")
    grid: NDArray[Any] = figure.subplots(pairs, 4, squeeze=False)
    for i, row in enumerate(grid):
        for axes, how, stream in ((row[0], views_a, "uniform"), (row[1], views_b, "reversed")):
            _draw_source(axes, beton, how, i, loader.settings.view)
            axes.set_title(f"{stream}: {_class_name(beton, int(how.indices[i]))}", fontsize=9)
        mix, cut = _mixed_images(batch, i, loader.settings.view)
        row[2].imshow(mix)
        row[2].set_title(f"MixUp, λ = {mixing.lam_mix[i]:.2f}", fontsize=9)
        row[3].imshow(cut)
        y0, x0, y1, x1 = mixing.cut_boxes[i]
        row[3].add_patch(_rectangle(y0, x0, y1, x1, "red"))
        row[3].set_title(f"CutMix, weight of a = {mixing.lam_cut[i]:.2f}", fontsize=9)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(
        f"Step {step}: blue is the crop for MixUp, orange the crop for CutMix (dashed: mirrored), red the cut box",
        fontsize=9,
    )
    return figure


def _draw_source(axes: Axes, beton: BetonFile, how: ViewDraws, i: int, view: ViewSettings) -> None:
    """A source image with the boxes of its two crops."""
    sample = beton.image_bytes(int(how.indices[i]))
    pixels = (
        sample if sample.ndim == 3 else np.asarray(Image.open(io.BytesIO(sample.tobytes())).convert("RGB"))
    )
    axes.imshow(pixels)
    for crop, mirrored, colour in zip(how.crops[i], how.flips[i], COLOURS, strict=True):
        if view.crop == "resized":
            y0, x0, y1, x1 = crop
        else:
            y0, x0 = crop - view.pad
            y1, x1 = y0 + view.size, x0 + view.size
        axes.add_patch(_rectangle(y0, x0, y1, x1, colour, dashed=bool(mirrored)))
    margin = view.pad if view.crop == "padded" else 0
    axes.set_xlim(-0.5 - margin, pixels.shape[1] - 0.5 + margin)
    axes.set_ylim(pixels.shape[0] - 0.5 + margin, -0.5 - margin)


def _rectangle(y0: int, x0: int, y1: int, x1: int, colour: str, *, dashed: bool = False) -> Rectangle:
    """The outline of a half-open box on an image whose pixel centres are whole numbers."""
    style = "--" if dashed else "-"
    return Rectangle(
        (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linestyle=style, lw=1.5
    )


def _mixed_images(
    batch: Batch, i: int, view: ViewSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two mixed images of pair i, normalisation undone: (S, S, 3) in [0, 1]."""
    images = batch.images.permute(0, 2, 3, 1)[[i, i + len(batch.label_a)]].float().cpu().numpy()
    mix, cut = np.clip(images * np.array(view.std, np.float32) + np.array(view.mean, np.float32), 0, 1)
    return mix, cut


def _class_name(beton: BetonFile, index: int) -> str:
    return f"{beton.class_names[int(beton.labels[index])]} ({beton.counts[beton.labels[index]]} images)"


if __name__ == "__main__":
    sys.exit(main())
