"""The command line of the benchmarks: tiny ones, run as a user would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.machine import commit
from benchmarks.photographs import made_photographs
from tools.benchmark import main

ROOT = Path(__file__).resolve().parents[2]
ROW_KEYS = ["name", "metric", "unit", "median", "min", "max", "runs", "augmentation"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    made_photographs(70, cache=folder / "fasttail")
    return folder


def bench(cache: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "benchmark.py", *arguments],
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "FASTTAIL_NUMBA_CACHE_DIR": "",
            "PYTHONPATH": str(ROOT),
        },
        cwd=cache,
        capture_output=True,
        text=True,
        check=False,
    )


def read(path: Path) -> dict[tuple[str, str], dict[str, object]]:
    content = json.loads(path.read_text())
    assert list(content) == ["rows", "machine", "versions", "commit"]
    assert content["commit"] == commit() and content["machine"]["cores"] == 1
    assert all(list(row) == ROW_KEYS for row in content["rows"])
    assert all(row["min"] <= row["median"] <= row["max"] for row in content["rows"])
    return {(row["name"], row["metric"]): row for row in content["rows"]}


def test_peers_take_turns_and_are_written_as_rows(cache: Path, tmp_path: Path) -> None:
    json_file, picture = tmp_path / "peers.json", tmp_path / "new folder" / "peers.png"
    names = ["ours-cpu", "stock-dali"]
    done = bench(
        cache, "peers", "--peers", *names, "--cores", "1", "--images", "70", "--seconds", "0.05",
        "--json", json_file, "--picture", picture,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read(json_file)
    for name in names:
        row = rows[name, "pairs_per_second"]
        assert (row["runs"], row["augmentation"]) == (5, "crop-flip") and row["median"] > 0
        swept = [key for key in rows if key[1] == "swept_pairs_per_second" and key[0].startswith(f"{name}/")]
        assert len(swept) == 2
        assert rows[name, "best_workers"]["median"] in (1, 2)
        assert f"{name}  " in done.stdout
    assert 80 < rows["photographs", "mean_jpeg_kilobytes"]["median"] < 140
    assert "ours-cpu over official-style: not measured" in done.stdout
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_the_loader_is_measured_warm_and_cold(cache: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "loader.json"
    done = bench(
        cache, "loader", "--cores", "1", "--images", "70", "--seconds", "0.05",
        "--batches", "8", "16", "--json", json_file, "--picture", tmp_path / "loader.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read(json_file)
    ceiling = rows["decode-only/threads 1", "source_decodes_per_second"]
    for batch in (8, 16):
        of_batch = {metric: rows[f"ours-cpu/threads 1/batch {batch}", metric]["median"] for metric in METRICS}
        assert of_batch["source_decodes_per_second"] == 2 * of_batch["pairs_per_second"]
        assert of_batch["crops_per_second"] == 4 * of_batch["pairs_per_second"]
        decodes = rows[f"ours-cpu/threads 1/batch {batch}", "source_decodes_per_second"]
        share = rows[f"ours-cpu/threads 1/batch {batch}", "share_of_decode_ceiling"]
        assert 99.9 * decodes["min"] / ceiling["max"] < share["min"]  # each run with its own of the ceiling
        assert share["max"] < 100.1 * decodes["max"] / ceiling["min"]
        assert 0 < of_batch["cores_used"] < 1.5
        assert 0 <= of_batch["peak_memory"] < 2000
    assert rows["ours-cpu/cold/threads 1/batch 8", "pairs_per_second"]["median"] > 0
    assert "Cold: " in done.stdout


def test_a_loader_without_time_measures_all_cores_once_and_names_the_rest(
    cache: Path, tmp_path: Path
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine refuses a second core")
    json_file = tmp_path / "loader.json"
    done = bench(
        cache, "loader", "--cores", "2", "--images", "70", "--seconds", "0.05", "--minutes", "0.001",
        "--batches", "8", "--json", json_file, "--picture", tmp_path / "loader.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {(row["name"], row["metric"]): row for row in json.loads(json_file.read_text())["rows"]}
    assert rows["ours-cpu/threads 2/batch 8", "pairs_per_second"]["runs"] == 1
    assert rows["ours-cpu/cold/threads 2/batch 8", "pairs_per_second"]["runs"] == 1
    assert ("decode-only/threads 1", "source_decodes_per_second") not in rows
    assert "Left out, for --minutes 0.001 are over: threads 1." in done.stdout


METRICS = (
    "pairs_per_second",
    "source_decodes_per_second",
    "crops_per_second",
    "share_of_decode_ceiling",
    "cores_used",
    "peak_memory",
)


def test_decode_prints_the_lines_to_paste(cache: Path, tmp_path: Path) -> None:
    done = bench(
        cache, "decode", "--cores", "1", "--images", "70", "--seconds", "0.05",
        "--json", tmp_path / "decode.json", "--picture", tmp_path / "decode.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "decode.json")
    best = max((row for key, row in rows.items() if key[0].startswith("cpu/")), key=lambda row: row["median"])
    assert f"data:\n  threads: {str(best['name']).split()[-1]}\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loader", "--cores", "999"], "--cores 999: this process may use"),
        (["peers", "--peers", "nobody"], "--peers nobody: there is no such peer"),
        (["loader", "--json", "/proc/none/rows.json"], "--json /proc/none/rows.json: cannot be written"),
        (["loader", "--beton", "none.beton"], "none.beton: cannot open the beton"),
        (["report", "nowhere"], "nowhere: holds none of tests.json, decode.json"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fasttail-bench: {message}") and len(said.splitlines()) == 1


def test_a_stage_that_does_not_exist_is_refused() -> None:
    script = ROOT / "benchmarks" / "gpu.sh"
    done = subprocess.run(["bash", script, "decode", "train"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "gpu.sh: no stage train; there are tests decode loader mix peers step settings cifar runs\n"
    )


def test_all_stages_fit_the_loan_of_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """Half an hour with the machine's start; each under 8 minutes, its benchmark ending by itself before."""
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    stages = re.search(r"^STAGES=\((.*)\)$", text, re.MULTILINE)
    limits = {name: int(seconds) for name, seconds in re.findall(r"\[(\w+)\]=(\d+)", text)}
    commands = {name: command.split() for name, command in re.findall(r"\[(\w+)\]='(.*)'", text)}
    assert stages is not None and stages[1].split() == list(limits) == ["tests", *commands, "runs"]
    by_default = sum(limits.values()) - limits["runs"]
    assert by_default <= 27 * 60 and max(limits.values()) < 8 * 60
    for name, command in commands.items():
        minutes = float(command[command.index("--minutes") + 1])
        assert limits[name] - 60 < 60 * minutes < limits[name] - 20
        with pytest.raises(SystemExit) as done:
            main([*command, "--json", "x.json", "--help"])
        assert done.value.code == 0, capsys.readouterr().err


def test_gpu_sh_says_what_the_machine_lacks_and_then_runs_no_test(tmp_path: Path) -> None:
    """Where nothing is missing the tests run, and their result is kept."""
    environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
    command = ["bash", ROOT / "benchmarks" / "gpu.sh", "tests"]
    environment["PYTEST_ADDOPTS"] = "--collect-only -k no_test_has_this_name"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "commit: " in done.stdout
    if "gpu: None" in done.stdout:
        assert "MISSING: no CUDA device" in done.stdout
    if "MISSING" in done.stdout:
        assert done.returncode == 1 and "== tests" not in done.stdout
        assert done.stdout.endswith("gpu.sh: the stages tests and runs cannot run without what is MISSING\n")
    else:
        assert "== tests" in done.stdout
        assert (tmp_path / "out" / "tests.json").exists()
    assert (tmp_path / "out" / "gpu-tests.log").read_text() == done.stdout


def test_gpu_sh_names_every_file_of_gpu_tests_once() -> None:
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    [lists] = re.findall(r"^declare -rA TESTS=\((.*?)^\)$", text, re.MULTILINE | re.DOTALL)
    named = [f"tests/{name}" for name in re.findall(r"\S+/test_\w+\.py", lists.replace("'", " "))]
    mark = "mark" + ".gpu"  # this file has the mark, too, and is one of them
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if mark in path.read_text()]
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in marked)


@pytest.mark.gpu
def test_the_loader_on_a_gpu_takes_memory_of_it(cache: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "loader.json"
    done = bench(
        cache, "loader", "--cores", "1", "--images", "70", "--seconds", "0.05", "--batches", "8",
        "--minutes", "0.01", "--json", json_file, "--picture", tmp_path / "loader.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read(json_file)
    assert 0 < rows["ours-dali-gpu/threads 1/batch 8", "peak_device_memory"]["median"] < 20_000
    assert 0 <= rows["ours-split/threads 1/batch 8", "peak_device_memory"]["median"] < 20_000
    assert ("ours-cpu/threads 1/batch 8", "peak_device_memory") not in rows
