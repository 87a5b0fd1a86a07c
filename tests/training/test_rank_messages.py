"""Two real ranks, a bad image, a missing manifest: whoever complains says who it is."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.beton.reader import open_beton
from pipelines.rank_slice import RankSlice
from pipelines.thread_pool import ThreadPool
from pipelines.train_loader import PairedLoader
from pipelines.user_error import UserError
from training.build import build_image_works, build_ordinary_loader
from training.command_line import build_parser, parse_config
from training.process_group import choose_device
from training.rank_messages import rank_name, run_rank_command


def test_alone_nobody_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise UserError("no such file")

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert rank_name() is None
    assert run_rank_command("fasttail-train", refuse) == 2
    assert capsys.readouterr().err == "fasttail-train: no such file\n"


RANK = """
import atexit, warnings
from training.rank_messages import run_rank_command

def look():
    print(warnings.formatwarning("odd", UserWarning, "file.py", 3, ""), end="")
    return 4

atexit.register(print, "Python's clean-up")
run_rank_command("fasttail-evaluate", look)
"""


def test_a_rank_names_itself_and_ends_with_the_command() -> None:
    """Before Python's clean-up, which aborts a process that gloo's threads are still in."""
    command, root = [sys.executable, "-c", RANK], Path(__file__).parents[2]
    ended = subprocess.run(
        command, env={**os.environ, "WORLD_SIZE": "16", "RANK": "5"}, capture_output=True, text=True, cwd=root
    )
    assert ended.returncode == 4, ended.stderr
    assert ended.stdout == f"rank 5 of 16 on {socket.gethostname()}: file.py:3: UserWarning: odd\n"


def test_a_bad_image_and_a_missing_manifest_on_two_ranks(
    photographs: Path,
    photograph_options: Callable[..., list[str]],
    start_process: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    """Both ranks read the set, so both warn; the first to draw the image fails."""
    damaged = tmp_path / "damaged.beton"
    shutil.copy(photographs, damaged)
    shutil.copy(f"{photographs}.json", f"{damaged}.json")
    command = photograph_options(tmp_path / "run", "--data.train", str(damaged))
    first = {}
    for bad in range(40):  # one that the two ranks first draw in different steps, rank 1 before rank 0
        first = {rank: first_step(command, rank, bad) for rank in range(2)}
        if first[1] < first[0]:
            break
    assert first[1] < first[0]
    beton = open_beton(damaged)
    with damaged.open("r+b") as file:
        file.seek(int(beton.offsets[bad]))
        file.write(bytes(int(beton.sizes[bad])))
    Path(f"{damaged}.json").unlink()
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training.train")
    process = start_process(command, module=torchrun)
    _, errors = process.communicate(timeout=900)
    assert process.returncode != 0
    host = re.escape(socket.gethostname())
    for rank in range(2):
        assert re.search(rf"^rank {rank} of 2 on {host}: .*UserWarning: .*no manifest", errors, re.MULTILINE)
    said = re.findall(rf"fasttail-train, rank (\d) of 2 on {host}: (.*)", errors)
    assert [rank for rank, _ in said] == ["1"], errors
    assert f"damaged.beton: image {bad} " in said[0][1]


def first_step(command: list[str], rank: int, image: int) -> float:
    """The step in which a rank of two first draws an image."""
    config, _ = parse_config(build_parser("test", ""), command)
    ranks, device = RankSlice(rank, 2), choose_device("cpu", 0)
    with ThreadPool(1) as pool:
        works = build_image_works(config, ranks, device, pool)
        loader = build_ordinary_loader(config, open_beton(config.data.train), ranks, works)
        assert isinstance(loader, PairedLoader)
        for step in range(loader.total_steps):
            views_a, views_b, _ = loader.draw_step(step)
            if image in np.concatenate([views_a.indices, views_b.indices]):
                return step
    return np.inf
