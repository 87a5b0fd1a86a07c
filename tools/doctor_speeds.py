"""What the doctor measures, part by part, and what follows from it: the bottleneck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from benchmarks.photographs import made_photographs
from pipelines.beton.format import RAW_MODE
from pipelines.beton.reader import BetonFile
from pipelines.user_error import UserError
from tools.doctor_bottleneck import Rates, bottleneck
from tools.doctor_finding import Finding
from tools.doctor_network import network_rate
from tools.doctor_rates import dali_rate, decode_rate, disk_rate
from training.config import Config

PHOTOGRAPHS = 64
KEPT = 0.5
"""Share of a dropped file's pages above which its reading is no measurement of the disk."""


@dataclass(frozen=True)
class Machine:
    """What the measurements run on."""

    cores: int
    gpus: int
    memory: int
    """Bytes available."""


def speed_findings(
    beton: BetonFile | None, config: Config | None, here: Machine, seconds: float
) -> Iterator[Finding]:
    """Measure each part for `seconds`; the last finding compares them."""
    disk = None
    if beton is not None:
        finding, disk = disk_finding(beton, seconds)
        yield finding
    if beton is not None and (beton.modes == RAW_MODE).all():
        yield Finding(
            "decoder", "none needed: the images are raw pixels", values={"source_images_per_second": None}
        )
        yield Finding("bottleneck", "the network: nothing has to be decoded")
        return
    try:
        images = made_photographs(PHOTOGRAPHS).beton if beton is None else beton
        cpu = decode_rate(images, here.cores, seconds)
    except UserError as error:
        yield Finding("decoder", "not measured", remedy=str(error))
        return
    yield _decoder("decoder", f"{here.cores} threads", cpu, {"threads": here.cores})
    dali = None
    if here.gpus:
        finding, dali = dali_finding(images, here, seconds)
        yield finding
    network = None
    if config is not None:
        found = network_rate(config, images.num_classes, here.gpus, seconds)
        network = found.images_per_second
        place = "a GPU" if here.gpus else "the CPU"
        yield Finding(
            "network",
            f"{config.model.backbone} on {place}: {network:,.0f} forward images/s in steps of {found.pairs} pairs",
            values=asdict(found),
        )
    fits = beton is None or len(beton.content) < here.memory
    rates = Rates(devices=here.gpus, cpu=cpu, dali=dali, disk=disk, fits_memory=fits, network=network)
    yield Finding("bottleneck", *bottleneck(rates), asdict(rates))


def disk_finding(beton: BetonFile, seconds: float) -> tuple[Finding, float | None]:
    """The disk under a file; images a second, None where the file would not leave memory."""
    found = disk_rate(beton, seconds)
    measured = found.kept < KEPT
    said = (
        f"{found.bytes_per_second / 1e6:,.0f} MB/s, {found.images_per_second:,.0f} images/s in random order"
    )
    if not measured:
        said += f", but {found.kept:.0%} of the file would not leave memory"
    return Finding("disk", said, values=asdict(found)), found.images_per_second if measured else None


def dali_finding(beton: BetonFile, here: Machine, seconds: float) -> tuple[Finding, float | None]:
    """DALI on one GPU, with as many threads as are its share of the cores; images a second, None without it."""
    try:
        rate = dali_rate(beton, max(1, here.cores // here.gpus), seconds)
    except (UserError, ImportError) as error:
        return Finding("DALI's decoder", "not measured", remedy=" ".join(str(error).split())), None
    return _decoder("DALI's decoder", "one GPU", rate, {}), rate


def _decoder(name: str, where: str, rate: float, values: dict[str, object]) -> Finding:
    return Finding(
        name,
        f"{rate:,.0f} source images/s on {where}, each cut twice and resized to 224 x 224",
        values={"source_images_per_second": rate, **values},
    )
