"""The rehearsal itself, at the smallest share: all parts run, a worker dies, nothing stays; and so after Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tools.rehearsal import main

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def start(folder: Path) -> subprocess.Popen[str]:
    script = [sys.executable, str(REPOSITORY / "tools" / "rehearsal.py"), "imagenet-lt", "--scale", "0.001"]
    return subprocess.Popen(
        [*script, "--lists", str(folder / "none"), "--folder", str(folder)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_all_parts_and_a_killed_worker(tmp_path: Path) -> None:
    process = start(tmp_path)
    out, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors
    assert "exitcode: -9" in errors  # torchrun's own words on the worker
    table = re.findall(r"^(\w+(?: \w+){0,3}) {2,}([\d.]+) +([\d.]+) +([\d,]+) {2}(.+)$", out, re.MULTILINE)
    assert [row[0] for row in table] == [
        *("make train pictures", "convert train", "verify train"),
        *("make test pictures", "convert test", "verify test"),
        *("train on 2 ranks", "evaluate", "tables and pictures"),
    ]
    assert all(float(row[1]) > 0 and float(row[2]) > 0 and int(row[3].replace(",", "")) > 10 for row in table)
    # 1,000 classes of one image each; 1,000 / 120 is 8.3
    what = {row[0]: row[4] for row in table}
    assert what["convert train"] == what["convert test"] == "1,000 images"
    assert what["train on 2 ranks"].startswith("2 epochs of 9 steps; a worker killed after ")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    family: list[psutil.Process] = []
    while not (family and list(tmp_path.glob("*/images/train/train/*/*.JPEG"))):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.endswith("rehearsal: interrupted\n")
    _, alive = psutil.wait_procs(family, timeout=300)
    assert not alive
    assert not list(tmp_path.iterdir())


def test_a_part_that_fails_ends_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lists, folder = tmp_path / "lists", tmp_path / "folder"
    lists.mkdir()
    folder.mkdir()
    (lists / "ImageNet_LT_train.txt").write_text(f"train/n01440764/{'x' * 300}.JPEG 0\n")
    before = signal.getsignal(signal.SIGTERM)
    assert main(["imagenet-lt", "--lists", str(lists), "--folder", str(folder), "--scale", "0.001"]) == 1
    errors = capfd.readouterr().err
    assert "File name too long" in errors
    assert re.search(r"^rehearsal: -m benchmarks.tiny_pictures .* ended with 1$", errors, re.MULTILINE)
    assert not list(folder.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imagenet-lt", "--folder", str(tmp_path / "none")]) == 2
    assert f"--folder {tmp_path / 'none'}: cannot be written" in capsys.readouterr().err
    for share in ("0", "1.5", "nan", "much"):
        with pytest.raises(SystemExit):
            main(["imagenet-lt", "--scale", share])
        assert f"'{share}' is no share above 0 and up to 1" in capsys.readouterr().err
