"""What a user with photographs starts: the defaults of a device with colours changed, stopped, continued, evaluated.

On a GPU that is DALI there, bf16, the compiled model and the kernels.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

EPOCHS, STEPS_AN_EPOCH = 8, 3
LIKE_A_GPU = ["--data.decode=dali-cpu", "--run.precision=bf16"]
"""Of a CPU, whose defaults are others."""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_trained_stopped_continued_evaluated(
    device: str,
    photographs: Path,
    photograph_options: Callable[..., list[str]],
    run_with_stops: Callable[..., list[list[dict[str, Any]]]],
    start_process: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "run", tmp_path / "figures.json"
    special = [f"--run.device={device}", "--view.augment=jitter-gray-blur", "--checkpoint.minutes=1e-9"]
    special += LIKE_A_GPU if device == "cpu" else []
    arguments = photograph_options(folder, *special, epochs=EPOCHS)
    stops = [(4, "SIGTERM", 0, 0.0)]
    plan = {"arguments": arguments, "folder": str(folder), "ranks": 1, "stops": stops}
    [starts] = run_with_stops([plan])
    assert [start["statuses"] for start in starts] == [[75], [0]], folder.with_suffix(".out").read_text()
    assert 4 <= starts[0]["step"] < starts[1]["step"] == EPOCHS * STEPS_AN_EPOCH

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [STEPS_AN_EPOCH * (i + 1) for i in range(EPOCHS)]
    assert all(math.isfinite(line["loss"]) and line["bad_steps"] == 0 for line in trained)
    evaluated = [line["epoch"] for line in lines if line["kind"] == "eval" and line["head"] == "rebalanced"]
    assert evaluated == list(range(EPOCHS))
    saved = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert {tensor.device.type for tensor in saved["model"].values()} == {"cpu"}
    assert list((folder / "report").glob("*.png"))

    command = ["--checkpoint", str(folder / "checkpoints" / "last.pt"), "--data", str(photographs)]
    command += ["--device", device, "--json", str(out), "--threads", "2"]
    process = start_process(command, module=("training.evaluate",))
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    figures = json.loads(out.read_text())
    assert figures["decode"] == ("dali-cpu" if device == "cpu" else "dali-gpu")
    assert figures["precision"] == "bfloat16"
    ours = json.loads((folder / "summary.json").read_text())["accuracy"]["all"]
    # batches of another size round otherwise, and on a GPU chance chooses the decoding engine
    assert figures["heads"]["rebalanced"]["all"] == pytest.approx(ours, abs=0.1)
