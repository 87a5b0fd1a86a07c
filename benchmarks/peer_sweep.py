"""The best number of workers of each peer: all are tried with a worker a core, then with more while there is time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.isolated import FeedError, IsolatedFeed
from benchmarks.measurement import Row, row_of
from benchmarks.peer import Peer, batch_for
from benchmarks.progress import Progress

METRIC = "pairs_per_second"
WARM_UP = 0.5
"""Seconds of the first run of a feed, in which it compiles, forks and fills its buffers; it does not count."""
LEFT_FOR_TURNS = 0.45
"""Part of the time that the sweep leaves to the runs in turn."""


@dataclass(frozen=True)
class Opened:
    """A peer with a number of workers, ready to be timed."""

    peer: Peer
    workers: int
    feed: IsolatedFeed
    pairs_per_second: float = 0.0
    """In the sweep."""


@dataclass
class Swept:
    """What a sweep found."""

    best: dict[str, Opened] = field(default_factory=dict)
    """By the peer's name; open."""
    failures: list[str] = field(default_factory=list)
    """Which peers could not be opened, and why."""
    left_out: list[tuple[str, int]] = field(default_factory=list)
    """(peer, number of workers) for which there was no time."""


def sweep(
    stack: ExitStack, wanted: Sequence[Peer], folder: Path, cores: int, seconds: float, progress: Progress
) -> Swept:
    """Try the peers' numbers of workers, round by round; the one that made the most pairs stays open, on the stack."""
    swept, failed = Swept(), set[str]()
    to_leave = LEFT_FOR_TURNS * progress.seconds_left()
    choices = {peer.name: peer.worker_choices(cores) for peer in wanted}
    for place in range(max(map(len, choices.values()), default=0)):
        for peer in wanted:
            if peer.name in failed or place >= len(choices[peer.name]):
                continue
            workers = choices[peer.name][place]
            if place and progress.seconds_left() < to_leave:
                swept.left_out.append((peer.name, workers))
                continue
            try:
                opened = _try(stack, peer, workers, folder, batch_for(cores), seconds)
            except FeedError as error:
                failed.add(peer.name)
                swept.failures.append(f"{peer.name} with {workers} workers: not measured ({error}).")
                print(swept.failures[-1], flush=True)
            else:
                progress.keep([_swept_row(opened)])
                _keep_better(swept.best, opened)
    return swept


def peer_row(peer: Peer, values: Sequence[float], metric: str, unit: str, name: str | None = None) -> Row:
    """Sum up values of a peer."""
    return row_of(values, name=name or peer.name, metric=metric, unit=unit, augmentation=peer.augmentation)


def _try(stack: ExitStack, peer: Peer, workers: int, folder: Path, batch: int, seconds: float) -> Opened:
    feed = IsolatedFeed(peer.open, folder, workers, batch)
    stack.callback(feed.close)
    feed.pairs_per_second(WARM_UP)
    speed = feed.pairs_per_second(seconds)
    each = "each of 2 loaders" if peer.loaders == 2 else "the loader"
    print(f"{peer.name}, {workers} workers for {each}: {speed:,.0f} pairs/s", flush=True)
    return Opened(peer, workers, feed, speed)


def _swept_row(opened: Opened) -> Row:
    name = f"{opened.peer.name}/workers {opened.workers}"
    return peer_row(opened.peer, [opened.pairs_per_second], f"swept_{METRIC}", "pairs/s", name)


def _keep_better(best: dict[str, Opened], opened: Opened) -> None:
    """Close the slower one of a peer."""
    before = best.get(opened.peer.name, opened)
    better, worse = sorted((before, opened), key=lambda each: each.pairs_per_second, reverse=True)
    best[opened.peer.name] = better
    if worse is not better:
        worse.feed.close()
