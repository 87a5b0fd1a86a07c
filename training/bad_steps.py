"""The end of a run whose loss is not finite any more: which steps, and which images they saw.

Nothing about a batch is kept while training. What a step saw is a function of (seed, epoch, step), so it is found
again here.
"""

from __future__ import annotations

import json
from typing import Any

from pipelines.beton.reader import BetonFile
from pipelines.draws.draw import Draw
from pipelines.rank_slice import RankSlice
from pipelines.resident.loader import ResidentLoader
from pipelines.train_loader import TrainLoader
from pipelines.user_error import UserError
from training.config import Config
from training.disk_errors import disk_errors
from training.run_folder import RunFolder

STREAMS = ("uniform", "reversed")
NAMED_IN_THE_MESSAGE = 3


def images_of_step(done: int, loader: TrainLoader | ResidentLoader, beton: BetonFile) -> dict[str, Any]:
    """The images of the global batch of the step that was the `done`th, in the order of its pairs.

    `step` and `epoch` as in metrics.jsonl; by stream, `index` in the beton and `path` in the source list.
    """
    epoch, step_in_epoch = RankSlice.position(done - 1, len(loader))
    places = RankSlice(0, 1).train_places(step_in_epoch, 1, loader.settings.global_batch)
    images = loader.images_of(Draw(loader.settings.seed, epoch, places)).reshape(-1, len(places))
    return {
        "step": done,
        "epoch": epoch,
        **{
            stream: [{"index": int(i), "path": beton.source_path(int(i))} for i in indices]
            for stream, indices in zip(STREAMS, images, strict=False)  # a method that mixes nothing has one
        },
    }


def write_bad_steps(steps: list[dict[str, Any]], folder: RunFolder) -> None:
    """Save the images of bad steps, a step an entry."""
    with disk_errors(folder.bad_steps, "the images of the steps that were not finite"):
        folder.bad_steps.write_text(json.dumps(steps, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def bad_steps_error(steps: list[dict[str, Any]], config: Config, folder: RunFolder) -> UserError:
    """What ends the run: the first step, some of its images, and what is left."""
    first = steps[0]
    left = (
        f"{folder.last} is from before them"
        if folder.last.exists()
        else "there was no checkpoint before them"
    )
    named = []
    for stream in (stream for stream in STREAMS if stream in first):
        paths = [image["path"] or f"image {image['index']}" for image in first[stream]]
        named.append(f"{stream} {', '.join(paths[:NAMED_IN_THE_MESSAGE])}")
    return UserError(
        f"the loss was not finite in {len(steps)} steps in a row, from step {first['step']} (epoch "
        f"{first['epoch']}); they changed no weight, and {left}: lower optim.lr (it is {config.base_lr}), or look at "
        f"the images of these steps in {folder.bad_steps}, the first being {' and '.join(named)}"
    )
