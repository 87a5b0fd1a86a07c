"""What the doctor says of one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    text: str
    remedy: str | None = None
    values: Mapping[str, object] = field(default_factory=dict)
