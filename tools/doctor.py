"""What this machine can do, and where the bottleneck of a training will be.

    python tools/doctor.py --beton data/imagenet_lt/train.beton

Takes some seconds. With --beton the disk under it is measured cold (its pages are dropped from the page cache) and
the decoder on its own images; without, the decoder on photographs that are made once and kept.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.machine import machine
from benchmarks.photographs import made_photographs
from pipelines.beton_reader import BetonFile, open_beton
from pipelines.memory import available_memory
from pipelines.network_files import network_file_system
from pipelines.staging import default_folder, staged_bytes
from pipelines.thread_pool import available_cpus
from pipelines.turbojpeg import LIBRARY
from pipelines.user_error import UserError, run_command
from tools.doctor_gpu import driver_advice, driver_version, gpus, has_jpeg_engine, jpeg_engine_answers
from tools.doctor_rates import decode_rate, disk_rate

PHOTOGRAPHS = 64
CORES_A_GPU = 8
"""Below it the doctor says that the GPU should decode."""
MODULES = {
    "ffcv": ("FFCV, whose files these are", "pip install ffcv"),
    "nvidia.dali": (
        "DALI, which decodes on the GPU",
        "pip install nvidia-dali-cuda120; or --data.decode cpu",
    ),
    "triton": ("Triton, for the kernels on a GPU", "install PyTorch's CUDA build, which brings it"),
}
"""Module -> what it is, and what to do without it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    text: str
    remedy: str | None = None
    values: Mapping[str, object] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("fasttail-doctor", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    options = _parser().parse_args(arguments)
    if not 0 < options.seconds < 60:
        raise UserError(f"--seconds {options.seconds:g}: give a time above 0 and below 60")
    beton = open_beton(options.beton) if options.beton is not None else None
    findings = []
    for finding in examine(beton, options.seconds):
        findings.append(finding)
        if not options.json:
            remedy = f"\n{'':<18}-> {finding.remedy}" if finding.remedy else ""
            print(f"{finding.name:<18}{finding.text}{remedy}", flush=True)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
    return 0


def examine(beton: BetonFile | None, seconds: float) -> Iterator[Finding]:
    """Look at one thing after the other; the last finding is the bottleneck."""
    facts, cores, devices = machine(), available_cpus(), gpus()
    yield Finding("processor", f"{facts['cpu']}, {cores} cores for this process", values={"cores": cores})
    yield from gpu_findings(cores)
    yield memory_finding(beton, available_memory())
    yield staged_finding([default_folder("local"), default_folder("ram")])
    yield from library_findings()
    disk = None
    if beton is not None:
        found = disk_rate(beton, seconds)
        disk = found.images_per_second if found.kept < 0.5 else None
        yield Finding(
            "disk",
            f"{found.bytes_per_second / 1e6:,.0f} MB/s, {found.images_per_second:,.0f} images/s in random order"
            + ("" if disk else f", but {found.kept:.0%} of the file would not leave memory"),
            values=asdict(found),
        )
        yield file_system_finding(beton)
    try:
        images = made_photographs(PHOTOGRAPHS).beton if beton is None else beton
        decode = decode_rate(images, cores, seconds)
    except UserError as error:
        yield Finding("decoder", "not measured", remedy=str(error))
        return
    yield Finding(
        "decoder",
        f"{decode:,.0f} source images/s on {cores} threads, each cut twice and resized to 224 x 224",
        values={"source_images_per_second": decode, "threads": cores},
    )
    yield Finding("bottleneck", bottleneck(decode, disk, len(devices)))


def gpu_findings(cores: int) -> Iterator[Finding]:
    """Driver and wheel, devices, their JPEG engines, and cores for each."""
    devices, driver = gpus(), driver_version()
    said, remedy = driver_advice(driver, torch.version.cuda, bool(devices))
    yield Finding("driver", said, remedy, {"driver": driver, "cuda": torch.version.cuda})
    if not devices:
        yield Finding("GPU", "none that PyTorch sees: training runs on the CPU", values={"gpus": []})
        return
    listed = ", ".join(f"{each.name} ({each.capability}, {each.memory_gib:g} GiB)" for each in devices)
    yield Finding("GPU", listed, values={"gpus": [asdict(each) for each in devices]})
    answers = jpeg_engine_answers()
    engine = any(answers) if answers else has_jpeg_engine(devices[0].name)
    source = "the driver reports its use" if answers else "by its name"
    yield Finding(
        "JPEG engine",
        f"yes ({source})" if engine else f"none known ({source})",
        None if engine else "set --dali.hardware_share 0; CUDA decodes, or --data.decode cpu",
        {"jpeg_engine": engine},
    )
    share = cores / len(devices)
    yield Finding(
        "cores a GPU",
        f"{share:g}",
        "few: let the GPU decode (--data.decode dali-gpu, the default)" if share < CORES_A_GPU else None,
        {"cores_a_gpu": share},
    )


def memory_finding(beton: BetonFile | None, available: int) -> Finding:
    """Memory, against the file that is to be read from it again and again."""
    values: dict[str, object] = {"available_bytes": available}
    if beton is None:
        return Finding("memory", f"{available / 1e9:.1f} GB available", values=values)
    size = len(beton.content)
    values |= {"beton_bytes": size}
    said = f"{available / 1e9:.1f} GB available, the beton has {size / 1e9:.2f} GB"
    if size < available:
        return Finding("memory", f"{said}: the page cache holds it after one epoch", values=values)
    return Finding(
        "memory",
        f"{said}: {100 * (1 - available / size):.0f} % of every epoch comes from the disk",
        "store smaller images (convert_datasets.py --short-side 256), or a machine with more memory",
        values,
    )


def staged_finding(folders: list[Path]) -> Finding:
    """What `data.stage` has left in its own folders."""
    taken = {folder: size for folder in folders if (size := staged_bytes(folder))}
    values = {"folders": {str(folder): size for folder, size in taken.items()}}
    if not taken:
        return Finding("staged copies", "none in the folders of data.stage", values=values)
    said = ", ".join(f"{size / 1e9:.2f} GB in {folder}" for folder, size in taken.items())
    names = " ".join(map(str, taken))
    return Finding("staged copies", said, f"later runs use them; when you are done: rm -r {names}", values)


def file_system_finding(beton: BetonFile) -> Finding:
    """Whether the file is far away."""
    name = network_file_system(beton.path)
    if name is None:
        return Finding("file system", "of this machine: mapped", values={"network": None})
    return Finding(
        "file system",
        f"{name}, a network file system: read with pread",
        "copy it once a node: --data.stage local, or ram where it fits",
        {"network": name},
    )


def library_findings() -> Iterator[Finding]:
    """What is installed, and what to do where something is not."""
    try:
        ctypes.CDLL(LIBRARY)
        yield Finding("libturbojpeg", "there", values={"there": True})
    except OSError:
        yield Finding(
            "libturbojpeg",
            "missing: nothing decodes on the CPU",
            "apt-get install libturbojpeg0-dev",
            {"there": False},
        )
    for module, (purpose, remedy) in MODULES.items():
        there = is_there(module)
        name = module.rpartition(".")[2]
        yield Finding(
            name, "there" if there else f"missing: {purpose}", None if there else remedy, {"there": there}
        )


def is_there(module: str) -> bool:
    """Whether a module could be imported; it is not, for DALI takes seconds."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package
        return False


def bottleneck(decode: float, disk: float | None, devices: int) -> str:
    """Say in one sentence of arithmetic up to which speed of the network the data keep up.

    `decode` and `disk` are source images a second of the whole machine. A pair costs two of them and feeds two forward
    images, so the three rates have one unit.
    """
    slower, name = (disk, "disk") if disk is not None and disk < decode else (decode, "decoder")
    other = f", the disk {disk:,.0f} until the file is in memory" if disk is not None else ""
    share = slower / max(1, devices)
    each = f" = {share:,.0f} forward images/s a GPU" if devices > 1 else f" = {share:,.0f} forward images/s"
    gpu = "; what the CPU does not manage DALI can decode on the GPU" if devices else ""
    return (
        f"CPU threads decode {decode:,.0f} source images/s{other}, a pair takes 2 and feeds 2, so the {name} is the "
        f"bottleneck of any network faster than {slower:,.0f} / {max(1, devices)}{each}{gpu}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fasttail-doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beton", type=Path, metavar="FILE", help="the set that is to be trained on")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="of each measurement (default: 2)"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
