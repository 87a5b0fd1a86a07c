"""Where the bottleneck of a training will be: the rates of its parts, compared in one unit.

A mixed pair costs two source images and feeds two forward images, a plain image costs one and feeds one: source images
read, source images decoded and forward images trained a second can be compared as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALLER = "store smaller images (convert_datasets.py --short-side 256)"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Images a second; None where it was not measured."""

    devices: int
    """GPUs; 0 where the CPU trains."""
    cpu: float
    """Source images that the CPU threads of the whole machine decode."""
    dali: float | None = None
    """Source images that DALI decodes on one GPU."""
    disk: float | None = None
    """Source images from the disk of the whole machine."""
    fits_memory: bool = True
    """Whether the page cache can hold the file, so that the disk is read in the first epoch only."""
    network: float | None = None
    """Forward images that one device trains."""

    @property
    def decoders(self) -> dict[str, float]:
        """Source images a second for each device, by who decodes them."""
        found = {"CPU threads": self.cpu / max(1, self.devices)}
        return found if self.dali is None else found | {"DALI": self.dali}

    @property
    def decoder(self) -> float:
        """Of the fastest of them."""
        return max(self.decoders.values())

    @property
    def disk_share(self) -> float:
        """Source images a second from the disk for each device; no limit where nothing was read."""
        return float("inf") if self.disk is None else self.disk / max(1, self.devices)


def bottleneck(rates: Rates) -> tuple[str, str | None]:
    """Say what the bottleneck is, with its arithmetic, and what to do about it."""
    parts = [f"{who} {rate:,.0f}" for who, rate in rates.decoders.items()]
    if rates.disk is not None:
        parts.append(f"disk {rates.disk_share:,.0f}")
    if rates.network is not None:
        parts.append(f"network {rates.network:,.0f}")
    unit = "images/s a GPU" if rates.devices > 1 else "images/s"
    data, name = min((rates.decoder, "decoder"), (rates.disk_share, "disk"))
    arithmetic = f"{', '.join(parts)} {unit}"
    if rates.network is None:
        said = f"the {name}, for any network that trains more than {data:,.0f} {unit}"
        return f"{said} ({arithmetic})", "--config FILE measures the network of a run"
    if rates.network <= data:
        return f"the network ({arithmetic})", None
    waits = f"{1 - data / rates.network:.0%} of the time"
    if name == "decoder":
        return f"the decoder, for which the network would wait {waits} ({arithmetic})", _faster_decoder(rates)
    if not rates.fits_memory:
        return f"the disk, for which the network would wait {waits} ({arithmetic})", SMALLER
    after = "network" if rates.network <= rates.decoder else "decoder"
    return (
        f"the disk in the first epoch, for which the network would wait {waits}; once the file is in memory "
        f"the {after} ({arithmetic})",
        _faster_decoder(rates) if after == "decoder" else None,
    )


def _faster_decoder(rates: Rates) -> str:
    if rates.dali is None:
        return f"{SMALLER}, or give the run more cores"
    return f"let both decode (data.decode split:SHARE; tools/benchmark.py decode looks for the share), or {SMALLER}"
