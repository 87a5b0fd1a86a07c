"""`peers`: pairs a second from the same JPEGs on the same cores, ours and other libraries', in turn.

Each peer runs in a process of its own, at its own best number of workers, which a sweep finds first. Then all of
them take turns, five timed runs each, fewer where --minutes are short. A pair is two source images, one of each
stream, decoded and cropped twice to 224 x 224: 2 decodes, 4 crops.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch

from benchmarks.command import Command, add_beton_option
from benchmarks.feed import Feed
from benchmarks.isolated import FeedError
from benchmarks.measurement import CROP_FLIP, OFFICIAL, Row, times
from benchmarks.our_feeds import open_mixed, open_views
from benchmarks.peer import Peer
from benchmarks.peer_dali import open_dali
from benchmarks.peer_ffcv import open_ffcv
from benchmarks.peer_sweep import METRIC, Opened, peer_row, sweep
from benchmarks.peer_torch import open_official, open_official_full, open_official_uint8, open_torchvision_v2
from benchmarks.photographs import Photographs, open_photographs
from benchmarks.progress import Progress
from benchmarks.results import Results
from benchmarks.staged_feeds import SPLIT, Staged, open_staged_views
from pipelines.user_error import UserError

RUNS = 5


def open_ours(photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed our loader's views."""
    return open_views(photographs.beton, workers, batch, CROP_FLIP)


def open_ours_staged(decode: str, photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed the views of another of our backends."""
    return open_staged_views(photographs.beton, workers, batch, Staged(decode=decode))


def open_ours_full(photographs: Photographs, workers: int, batch: int) -> Feed:
    """Feed our loader's mixed batches, with the official augmentation."""
    return open_mixed(photographs.beton, workers, batch, OFFICIAL)


PEERS = (
    Peer(
        name="official-style",
        augmentation=CROP_FLIP,
        open=open_official,
        loaders=2,
        differs="Pillow from files; ToTensor makes float32 views (no Normalize here); worker processes",
    ),
    Peer(
        name="official-style/uint8",
        augmentation=CROP_FLIP,
        open=open_official_uint8,
        loaders=2,
        differs="as official-style, but views stay uint8, which the official trainer does not do",
    ),
    Peer(
        name="torchvision-v2",
        augmentation=CROP_FLIP,
        open=open_torchvision_v2,
        loaders=2,
        differs="decode_jpeg from files, v2 transforms on uint8 tensors; worker processes",
    ),
    Peer(
        name="stock-ffcv",
        augmentation=CROP_FLIP,
        open=open_ffcv,
        loaders=2,
        differs="our beton; decodes an image for each view (fast DCT, INTER_AREA); threads",
    ),
    Peer(
        name="stock-dali",
        augmentation=CROP_FLIP,
        open=open_dali,
        loaders=1,
        differs="its file reader and CPU operators; decodes once, crops twice; threads",
    ),
    Peer(
        name="ours-cpu",
        augmentation=CROP_FLIP,
        open=open_ours,
        loaders=1,
        differs="our beton; decodes once, crops twice; threads",
    ),
    Peer(
        name="ours-dali-cpu",
        augmentation=CROP_FLIP,
        open=partial(open_ours_staged, "dali-cpu"),
        loaders=1,
        differs="our beton; DALI's CPU operators, our boxes; threads",
    ),
    Peer(
        name="ours-dali-gpu",
        augmentation=CROP_FLIP,
        open=partial(open_ours_staged, "dali-gpu"),
        loaders=1,
        differs="our beton; DALI on the GPU; views in the GPU's memory",
        needs_gpu=True,
    ),
    Peer(
        name="ours-split",
        augmentation=CROP_FLIP,
        open=partial(open_ours_staged, SPLIT),
        loaders=1,
        differs="our beton; half by CPU threads, half by DALI on the GPU; views in the GPU's memory",
        needs_gpu=True,
    ),
    Peer(
        name="official-style/full",
        augmentation=OFFICIAL,
        open=open_official_full,
        loaders=2,
        differs="as official-style, with jitter, grey, blur, ToTensor, Normalize; mixes in plain PyTorch",
    ),
    Peer(
        name="ours-cpu/full",
        augmentation=OFFICIAL,
        open=open_ours_full,
        loaders=1,
        differs="as ours-cpu, with jitter, grey, blur; mixes and normalises in one loop",
    ),
)
GOALS = (
    ("ours-cpu", "official-style", 3.5),
    ("ours-cpu", "stock-ffcv", 3.0),
    ("ours-cpu/full", "official-style/full", 5.0),
)
"""(ours, theirs, how many times as fast)."""


def run(options: argparse.Namespace) -> Results:
    """Sweep each peer, then time them in turn."""
    wanted = chosen_peers(options.peers)
    progress: Progress = options.progress
    with open_photographs(options) as photographs, ExitStack() as stack:
        print(f"{len(photographs.labels)} photographs, {photographs.beton.path}", flush=True)
        progress.keep(photographs.rows())
        swept = sweep(stack, wanted, photographs.folder, options.cores, options.seconds, progress)
        opened, failures = list(swept.best.values()), swept.failures
        progress.keep([peer_row(each.peer, [each.workers], "best_workers", "workers") for each in opened])
        rows = in_turn(opened, options.seconds, failures, progress)
        progress.keep(rows)
    left_out = "; ".join(f"{name} {workers}" for name, workers in swept.left_out)
    return Results(
        title=f"Pairs a second of the same photographs, {options.cores} cores",
        rows=progress.rows,
        drawn=(METRIC,),
        notes=[
            *goals(rows),
            *failures,
            *([f"Numbers of workers not tried, for want of time: {left_out}."] if left_out else []),
            *(f"{each.peer.name}: {each.peer.differs}." for each in opened),
        ],
    )


def in_turn(opened: Sequence[Opened], seconds: float, failures: list[str], progress: Progress) -> list[Row]:
    """Time the peers `RUNS` times, in turn: a row for each. One that fails now is left out and named."""
    values: dict[str, list[float]] = {each.peer.name: [] for each in opened}

    def rows() -> list[Row]:
        return [
            peer_row(each.peer, values[each.peer.name], METRIC, "pairs/s")
            for each in opened
            if each.peer.name in values
        ]

    go_on = progress.rounds(lambda _: rows(), warm_up=0)
    for _ in range(RUNS):
        for each in opened:
            if each.peer.name in values:
                try:
                    values[each.peer.name].append(each.feed.pairs_per_second(seconds))
                except FeedError as error:
                    failures.append(f"{each.peer.name}: not measured ({error}).")
                    del values[each.peer.name]
        if not go_on([]):
            break
    return rows()


def goals(rows: Sequence[Row]) -> list[str]:
    """Say of each goal whether it is reached."""
    said = []
    for ours, theirs, goal in GOALS:
        ratio = times(rows, ours, theirs, METRIC)
        if ratio is None:
            said.append(f"{ours} over {theirs}: not measured (goal {goal:g} times).")
        else:
            reached = "reached" if ratio >= goal else "NOT reached"
            said.append(f"{ours} is {ratio:.2f} times {theirs}: goal {goal:g} times {reached}.")
    return said


def chosen_peers(names: Sequence[str] | None) -> list[Peer]:
    """Return the peers of these names, or all that this machine's devices allow."""
    by_name = {peer.name: peer for peer in PEERS}
    if names is None:
        return [peer for peer in PEERS if torch.cuda.is_available() or not peer.needs_gpu]
    if unknown := [name for name in names if name not in by_name]:
        raise UserError(f"--peers {unknown[0]}: there is no such peer; choose from {', '.join(by_name)}")
    return [by_name[name] for name in dict.fromkeys(names)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --beton and --peers."""
    add_beton_option(parser)
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME",
        help=f"only these, of {', '.join(peer.name for peer in PEERS)} (default: all that can run here)",
    )


COMMAND = Command(
    name="peers",
    summary="our loader beside other libraries', in turn",
    text=__doc__,
    run=run,
    seconds=2.0,
    minutes=7.0,
    add_options=add_options,
)
