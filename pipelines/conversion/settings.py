"""What a conversion was asked for, and in what two of them differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.beton.manifest import Setting
from pipelines.conversion.image_bytes import ImageSettings


@dataclass(frozen=True, kw_only=True)
class ConversionSettings:
    """What the bytes of the beton depend on besides the list; all of it is in the manifest."""

    image: ImageSettings
    on_bad: str = "stop"
    """`stop` at a bad image, or `skip` it."""
    order: str = "listed"
    """Of the images in the file: as `listed`, or `shuffled` by the seed."""
    seed: int = 0
    source: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    """Settings of the source, such as an imbalance factor."""

    def named(self) -> dict[str, Setting]:
        """Return all settings by name."""
        own: dict[str, Setting] = {"on_bad": self.on_bad, "order": self.order}
        if self.order == "shuffled":
            own["order_seed"] = self.seed
        return {**dataclasses.asdict(self.image), **own, **self.source}


def differences(earlier: Mapping[str, Setting], now: Mapping[str, Setting]) -> str:
    """Say in which settings an earlier conversion differs from the one that is asked for now."""
    names = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
    return ", ".join(
        f"another {name}"
        if name in ("list", "images")
        else f"{name} {earlier.get(name)}, now {now.get(name)}"
        for name in names
    )
