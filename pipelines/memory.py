"""How much memory this process may still fill: the machine's, or less where its control groups grant less."""

from __future__ import annotations

import re
from pathlib import Path


def available_memory(
    meminfo: Path = Path("/proc/meminfo"),
    membership: Path = Path("/proc/self/cgroup"),
    mount: Path = Path("/sys/fs/cgroup"),
) -> int:
    """Return bytes: what the kernel calls available, or what the tightest control group has left.

    Page cache counts as available in both, for it gives way.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, "Linux has said so since 3.14"
    return min([1024 * int(found[1]), *_left_in_groups(membership, mount)])


def _left_in_groups(membership: Path, mount: Path) -> list[int]:
    """Bytes left under the limit of each control group of the process that has one (version 2, or 1)."""
    left = []
    for line in membership.read_text(encoding="ascii").splitlines() if membership.is_file() else []:
        _, controllers, path = line.split(":", 2)
        group = Path(path.lstrip("/"))
        if controllers == "":
            names, root = ("memory.max", "memory.current"), mount
        elif "memory" in controllers.split(","):
            names, root = ("memory.limit_in_bytes", "memory.usage_in_bytes"), mount / "memory"
        else:
            continue
        left += [_left(root / parent, *names) for parent in (group, *group.parents)]
    return [each for each in left if each is not None]


def _left(folder: Path, limit: str, usage: str) -> int | None:
    if not (folder / limit).is_file() or not (folder / usage).is_file():
        return None
    granted = (folder / limit).read_text(encoding="ascii").strip()
    if granted == "max":
        return None
    used = int((folder / usage).read_text(encoding="ascii"))
    statistics = (folder / "memory.stat").read_text(encoding="ascii")
    cached = re.findall(r"^(?:total_)?(?:in)?active_file (\d+)$", statistics, re.MULTILINE)
    return max(0, int(granted) - used + sum(map(int, cached[-2:])))
