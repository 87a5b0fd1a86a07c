"""What this machine can do, and where the bottleneck of a training will be.

    python tools/doctor.py --config configs/imagenet_lt_glmc_head.yaml
    python tools/doctor.py --beton data/imagenet_lt/train.beton

Takes some seconds. The disk under the beton is measured cold (its pages are dropped from the page cache) and the
decoder on its own images; without a beton, the decoder on photographs that are made once and kept. With --config the
beton is data.train, and the network is trained for a few steps as the run would, compiled if it is; this takes longer.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.machine import machine
from pipelines.beton.network_files import network_file_system
from pipelines.beton.reader import BetonFile, open_beton
from pipelines.beton.staging import default_folder, staged_bytes
from pipelines.jpeg.turbojpeg import require_library
from pipelines.memory import available_memory
from pipelines.thread_pool import available_cpus
from pipelines.user_error import UserError, run_command
from tools.doctor_finding import Finding
from tools.doctor_gpu import driver_advice, driver_version, gpus, has_jpeg_engine, jpeg_engine_answers
from tools.doctor_speeds import Machine, speed_findings
from training.command_line import build_parser, parse_config
from training.config import Config

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


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run_command("fasttail-doctor", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    options, settings = _parser().parse_known_args(arguments)
    if not 0 < options.seconds < 60:
        raise UserError(f"--seconds {options.seconds:g}: give a time above 0 and below 60")
    config = _read_config(options.config, settings)
    path = Path(config.data.train) if options.beton is None and config is not None else options.beton
    beton = open_beton(path) if path is not None else None
    findings = []
    for finding in examine(beton, config, options.seconds):
        findings.append(finding)
        if not options.json:
            remedy = f"\n{'':<18}-> {finding.remedy}" if finding.remedy else ""
            print(f"{finding.name:<18}{finding.text}{remedy}", flush=True)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
    return 0


def _read_config(file: Path | None, settings: list[str]) -> Config | None:
    """The run that is to be looked at; `settings` are what the command line says of it beside the file."""
    if file is None:
        if settings:
            raise UserError(
                f"{settings[0]} is no option of the doctor; settings of a run need --config FILE (see --help)"
            )
        return None
    config, _ = parse_config(build_parser("fasttail-doctor", ""), ["--config", str(file), *settings])
    return config


def examine(beton: BetonFile | None, config: Config | None, seconds: float) -> Iterator[Finding]:
    """Look at one thing after the other; the last finding is the bottleneck."""
    facts, cores, devices = machine(), available_cpus(), gpus()
    yield Finding("processor", f"{facts['cpu']}, {cores} cores for this process", values={"cores": cores})
    yield from gpu_findings(cores)
    memory = available_memory()
    yield memory_finding(beton, memory)
    yield staged_finding([default_folder("local"), default_folder("ram")])
    yield from library_findings()
    if beton is not None:
        yield file_system_finding(beton)
    yield from speed_findings(beton, config, Machine(cores, len(devices), memory), seconds)


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
        require_library()
        yield Finding("libturbojpeg", "there", values={"there": True})
    except UserError:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fasttail-doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--beton",
        type=Path,
        metavar="FILE",
        help="the set that is to be trained on (default: that of --config)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the run that is to be trained; its settings may follow, as --data.train FILE",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="S", help="of each measurement (default: 2)"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
