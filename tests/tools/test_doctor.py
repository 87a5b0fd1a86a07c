"""The doctor: the sentences of machines that are not here, and one real look at this one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.page_cache import resident_share
from pipelines.beton.format import SMALLEST_PAGE
from pipelines.beton.network_files import NETWORK_FILE_SYSTEMS, file_system_type
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.beton.staging import stage_beton
from pipelines.beton.writer import write_beton
from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import ImageSettings
from pipelines.conversion.settings import ConversionSettings
from pipelines.sources.digits import digits_split
from pipelines.sources.image_list import from_rows
from tools.doctor import file_system_finding, gpu_findings, main, memory_finding, staged_finding
from tools.doctor_bottleneck import Rates, bottleneck
from tools.doctor_gpu import (
    OLDER_CONSTRAINTS,
    Gpu,
    driver_advice,
    driver_version,
    has_jpeg_engine,
    jpeg_engine_answers,
)
from tools.doctor_rates import disk_rate


@pytest.fixture(scope="module")
def photographs(
    make_photographs: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> BetonFile:
    """Twelve photographs as a beton."""
    files = make_photographs(tmp_path_factory.mktemp("photographs"), 12)
    images = from_rows(
        [file.name for file in files], np.arange(12) % 3, list("abc"), kind="list", name="list"
    )
    out = tmp_path_factory.mktemp("betons") / "x.beton"
    convert_images(images, files[0].parent, out, ConversionSettings(image=ImageSettings()), workers=1)
    return open_beton(out)


@pytest.mark.parametrize(
    ("driver", "cuda", "sees", "said", "remedy"),
    [
        ("580.95.05", "13.0", True, "driver 580.95.05, PyTorch for CUDA 13.0", None),
        ("595.1", "12.6", True, "needs driver 525", None),
        ("580.95.05", "13.0", False, "CUDA 13.0", "look at CUDA_VISIBLE_DEVICES"),
        ("550.54.15", "13.0", False, "needs driver 580", "CONSTRAINTS=constraints-cuda12.txt"),
        ("470.82.01", "13.0", False, "needs driver 580", "a newer driver: the oldest"),
        (None, "13.0", False, "no NVIDIA driver", None),
        ("580.95.05", None, False, "a build for the CPU", "install PyTorch's CUDA build"),
        (None, None, False, "a build for the CPU", None),
    ],
)
def test_driver_and_wheel(
    driver: str | None, cuda: str | None, sees: bool, said: str, remedy: str | None
) -> None:
    text, advice = driver_advice(driver, cuda, sees)
    assert said in text
    assert advice is None if remedy is None else remedy in (advice or "")


def test_the_constraint_files_differ_in_pytorch_and_cuda_alone() -> None:
    """And the one for older drivers has nothing of CUDA 13."""
    root = Path(__file__).resolve().parents[2]
    ours, older = (
        dict(line.split("==") for line in (root / file).read_text().splitlines() if not line.startswith("#"))
        for file in ("constraints.txt", *OLDER_CONSTRAINTS.values())
    )
    differing = {name for name in ours.keys() | older.keys() if ours.get(name) != older.get(name)}
    assert {"torch", "torchvision"} < differing
    assert all(name.startswith(("torch", "triton", "cuda-", "nvidia-")) for name in differing)
    assert all("cu13" not in name for name in older)
    assert all(
        version.startswith("12.") for name, version in older.items() if name.startswith("cuda-bindings")
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 17 2024\nGCC version: 12",
            "535.161.08",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (a@b)",
            "580.65.06",
        ),
        ("something else", None),
    ],
)
def test_version_of_the_driver(text: str, version: str | None, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version
    assert driver_version(tmp_path / "none") is None


def test_engines_by_name() -> None:
    with_engine = [
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H200",
        "NVIDIA L4",
        "NVIDIA A30",
    ]
    without = ["Tesla V100-SXM2-16GB", "Tesla T4", "NVIDIA GeForce RTX 3090", "NVIDIA A10", "NVIDIA A40"]
    assert all(map(has_jpeg_engine, with_engine)) and not any(map(has_jpeg_engine, without))


def test_engines_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nvidia-smi, a real program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jpeg_engine_answers() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0 %'\necho '[N/A]'\n")
    program.chmod(0o755)
    assert jpeg_engine_answers() == [True, False]


def test_eight_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tools.doctor.gpus", lambda: [Gpu("NVIDIA H200", "9.0", 139.8)] * 8)
    monkeypatch.setattr("tools.doctor.driver_version", lambda: "580.1")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    found = {finding.name: finding for finding in gpu_findings(32)}
    assert found["JPEG engine"].values == {"jpeg_engine": True}
    assert found["cores a GPU"].text == "4" and "let the GPU decode" in (found["cores a GPU"].remedy or "")
    assert found["driver"].remedy is None


def test_memory_against_the_file(photographs: BetonFile) -> None:
    size = photographs.path.stat().st_size
    assert "the page cache holds it" in memory_finding(photographs, size + 1).text
    small = memory_finding(photographs, size // 4)
    assert "75 % of every epoch comes from the disk" in small.text and small.remedy is not None


def test_staged_copies_are_named_with_what_they_take(photographs: BetonFile, tmp_path: Path) -> None:
    folders = [tmp_path / "none", tmp_path / "some"]
    assert "none" in staged_finding(folders).text and staged_finding(folders).remedy is None
    folders[1].mkdir()
    copy = stage_beton(photographs.path, folders[1])
    found = staged_finding(folders)
    taken = sum(file.stat().st_size for file in copy.parent.iterdir())
    assert found.values == {"folders": {str(folders[1]): taken}}
    assert f"GB in {folders[1]}" in found.text and (found.remedy or "").endswith(f"rm -r {folders[1]}")


def test_network_file_system_is_named(photographs: BetonFile, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "of this machine" in file_system_finding(photographs).text
    monkeypatch.setitem(NETWORK_FILE_SYSTEMS, file_system_type(photographs.path), "nfs")
    assert file_system_finding(photographs).text == "nfs, a network file system: read with pread"


@pytest.mark.parametrize(
    ("rates", "said", "remedy"),
    [
        (
            Rates(devices=8, cpu=1600, disk=2000),
            "the decoder, for any network that trains more than 200 images/s a GPU "
            "(CPU threads 200, disk 250 images/s a GPU)",
            "--config FILE",
        ),
        (
            Rates(devices=1, cpu=1600, disk=900),
            "the disk, for any network that trains more than 900 images/s",
            "--config",
        ),
        (
            Rates(devices=0, cpu=1000, network=20),
            "the network (CPU threads 1,000, network 20 images/s)",
            None,
        ),
        (
            Rates(devices=1, cpu=600, network=2400),
            "the decoder, for which the network would wait 75% of the time",
            "more cores",
        ),
        (
            Rates(devices=4, cpu=2400, dali=1800, network=2400),
            "the decoder, for which the network would wait 25% of the time "
            "(CPU threads 600, DALI 1,800, network 2,400 images/s a GPU)",
            "let both decode",
        ),
        (
            Rates(devices=2, cpu=400, dali=3000, network=2400),
            "the network (CPU threads 200, DALI 3,000, network 2,400 images/s a GPU)",
            None,
        ),
        (
            Rates(devices=2, cpu=9000, disk=1200, network=2400),
            "the disk in the first epoch, for which the network would wait 75% of the time; once the file is in memory "
            "the network (",
            None,
        ),
        (
            Rates(devices=1, cpu=1000, disk=500, network=2000),
            "the disk in the first epoch, for which the network would wait 75% of the time; once the file is in memory "
            "the decoder (",
            "--short-side",
        ),
        (
            Rates(devices=1, cpu=9000, disk=600, network=2400, fits_memory=False),
            "the disk, for which the network would wait 75% of the time (",
            "--short-side",
        ),
    ],
)
def test_bottleneck_is_arithmetic(rates: Rates, said: str, remedy: str | None) -> None:
    found, advice = bottleneck(rates)
    assert found.startswith(said)
    assert advice is None if remedy is None else remedy in (advice or "")


def test_disk_rate_reads_from_the_disk(photographs: BetonFile) -> None:
    found = disk_rate(open_beton(photographs.path), 0.5)
    assert found.images_per_second > 0
    mean = float(photographs.sizes.mean())
    assert found.bytes_per_second / found.images_per_second == pytest.approx(mean)
    assert resident_share(photographs.path) > 0 and 0 <= found.kept <= 1


def test_a_look_at_this_machine(photographs: BetonFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--beton", str(photographs.path), "--seconds", "0.2", "--json"]) == 0
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    names = {"processor", "driver", "GPU", "memory", "libturbojpeg", "ffcv", "dali", "triton", "disk"}
    assert names | {"file system", "decoder", "bottleneck"} <= found.keys()
    assert found["decoder"]["values"]["source_images_per_second"] > 0
    assert bool(found["GPU"]["values"]["gpus"]) == torch.cuda.is_available()
    assert main(["--beton", str(photographs.path), "--seconds", "0.2"]) == 0
    assert capsys.readouterr().out.splitlines()[-2].startswith("bottleneck")


@pytest.fixture
def run_file(photographs: BetonFile, tmp_path: Path) -> Path:
    """The configuration of a small run on the photographs."""
    file = tmp_path / "run.yaml"
    file.write_text(
        f"method: glmc\ndata: {{train: {photographs.path}}}\nview: {{size: 32}}\nmodel: {{backbone: resnet8}}\n"
        "optim: {epochs: 2, batch_size: 120, lr: 0.1, accumulate: 3}\nrun: {folder: nowhere}\n"
    )
    return file


@pytest.mark.gpu
def test_a_gpu_decodes_and_trains(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(run_file), "--seconds", "0.5", "--json", "--run.compile", "none"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["DALI's decoder"]["values"]["source_images_per_second"] > 0
    assert "resnet8 on a GPU: " in found["network"]["text"]
    assert found["network"]["values"]["pairs"] == 120 // torch.cuda.device_count()
    assert found["bottleneck"]["values"]["dali"] and found["bottleneck"]["values"]["network"]


@pytest.mark.parametrize(("method", "images"), [("glmc", 16), ("ce", 8)])
def test_the_network_of_a_run(
    method: str,
    images: int,
    run_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU, in steps of 8 pairs, by a clock on which each of them takes a tenth of a second."""
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    monkeypatch.setattr("tools.doctor.gpus", lambda: [])
    monkeypatch.setattr("tools.doctor_network.perf_counter", lambda: steps / 10)
    hook = register_optimizer_step_post_hook(count)
    try:
        assert main(["--config", str(run_file), "--seconds", "0.3", "--json", "--method", method]) == 0
    finally:
        hook.remove()
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["network"]["values"] == {"images_per_second": pytest.approx(10 * images), "pairs": 8}
    assert (
        f"resnet8 on the CPU: {10 * images} forward images/s in steps of 8 pairs" in found["network"]["text"]
    )
    assert found["bottleneck"]["values"]["network"] == pytest.approx(10 * images)
    assert "disk" in found, "the beton is that of the configuration"


def test_raw_images_need_no_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, encoded = digits_split("train", 50.0, 0)
    write_beton(tmp_path / "x.beton", images, encoded, settings={}, page_size=SMALLEST_PAGE)
    assert main(["--beton", str(tmp_path / "x.beton"), "--seconds", "0.1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("the network: nothing has to be decoded")


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        (["--beton", str(tmp_path / "none.beton")], "none.beton: cannot open the beton"),
        (["--confi", "x.yaml"], "--confi is no option of the doctor; settings of a run need --config FILE"),
        (["--config", str(tmp_path / "none.yaml")], "none.yaml"),
        (["--seconds", "0"], "--seconds 0: give a time above 0 and below 60"),
    ]:
        assert main(arguments) == 2
        complained = capsys.readouterr().err
        assert message in complained and len(complained.splitlines()) == 1
