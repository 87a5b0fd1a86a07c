"""The batch script, run by bash with torchrun and stand-ins for Slurm's commands: requeued if warned, else not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.beton.format import SMALLEST_PAGE
from pipelines.beton.writer import write_beton
from pipelines.sources.digits import digits_split

ROOT = Path(__file__).resolve().parents[1]
SRUN = '#!/bin/sh\nexec "$@"\n'
SCONTROL = (
    '#!/bin/sh\n[ "$1" = show ] && echo localhost\n[ "$1" = requeue ] && echo "$2" >"$REQUEUED"\nexit 0\n'
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Slurm's variables, and stand-ins for its commands on the PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    torchrun = f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("torchrun", torchrun)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "REQUEUED": str(tmp_path / "requeued"),
        "FOLDER": str(tmp_path / "run"),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_GPUS_ON_NODE": "1",
        "PORT": "0",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings that name a tiny Digits-LT."""
    folder = tmp_path_factory.mktemp("digits")
    images, encoded = digits_split("train", 50.0, 0)
    write_beton(folder / "train.beton", images, encoded, settings={}, page_size=SMALLEST_PAGE)
    config = ROOT / "configs" / "digits_lt_ce.yaml"
    return ["--config", str(config), f"--data.train={folder}/train.beton", "--data.test=null"]


def test_a_warned_job_is_queued_again(environment: dict[str, str], data: list[str], tmp_path: Path) -> None:
    settings = ["--run.device=cpu", "--model.width=4", "--optim.epochs=100000", "--data.threads=1"]
    command = ["bash", str(ROOT / "docs" / "train.sbatch"), *data, *settings]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, process_group=0)
        try:
            deadline = time.monotonic() + 600
            while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
                assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
            job.send_signal(signal.SIGUSR1)
            assert job.wait(600) != 0
        finally:
            if job.poll() is None:
                for process in [*psutil.Process(job.pid).children(recursive=True), job]:
                    process.kill()
    assert (tmp_path / "requeued").read_text() == "4711\n", (tmp_path / "log").read_text()


def test_a_failed_job_is_not_queued_again(
    environment: dict[str, str], data: list[str], tmp_path: Path
) -> None:
    command = ["bash", str(ROOT / "docs" / "train.sbatch"), *data, "--optim.epochs=0"]
    environment = environment | {"RESTARTS": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode != 0 and "optim.epochs is 0" in done.stderr
    assert not (tmp_path / "requeued").exists()
    del environment["FOLDER"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode != 0 and "say where the run lives" in done.stderr
