"""All that a user of a large set types, from the list to the tables, timed part by part.

Every part is a process of its own with the arguments that a user would give. In the training one worker is killed, as
the kernel does when memory runs out.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peak_memory import ROOT, Watched, processes_of, run_watched
from benchmarks.rehearsal_set import SETS, Split
from pipelines.beton.reader import open_beton
from training.checkpoint import load_checkpoint
from training.command_line import build_parser, parse_config
from training.run_folder import RunFolder
from training.run_record import read_run

EPOCHS = 2
RANKS = 2
SCALED_DOWN = {
    "view.size": 32,
    "view.eval_resize": 36,
    "model.backbone": "resnet8",
    "model.width": 8,
    "optim.epochs": EPOCHS,
    "optim.schedule": "cosine",
    "checkpoint.minutes": 0.5,
}
"""What differs from the configuration: resolution (the evaluation's too), width (a network of another family, for the
ResNeXt-50 has one width only), two epochs, which a warm-up of ten does not fit into, and checkpoints within them."""
SAME_FIGURE = 0.002
"""Two evaluations of the same weights with other batches may differ by so much, through rounding."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One line of the table."""

    name: str
    watched: Watched
    what: str


@dataclass
class Killer:
    """Kills one worker of torchrun in the middle of the second epoch, once: a `look` of `run_watched`."""

    run: RunFolder
    after: int
    """Step in the log from which on it may be done."""
    killed_after: int | None = None
    """The step that the log stood at."""
    saved: int | None = None
    """The step of the checkpoint that the run goes on from."""

    def __call__(self, agent: int) -> None:
        """Look, and kill if it is time."""
        if self.killed_after is not None or not self.run.last.exists():
            return
        done = steps_logged(self.run.metrics)
        worker = next((pid for pid in processes_of(agent) if _local_rank(pid) == RANKS - 1), None)
        if done < self.after or worker is None:
            return
        os.kill(worker, signal.SIGKILL)
        self.killed_after = done
        self.saved = load_checkpoint(self.run.last).step


@dataclass
class Rehearsal:
    """A rehearsal of one set in one folder."""

    dataset: str
    splits: list[Split]
    """Training and test set."""
    folder: Path
    parts: list[Part] = field(default_factory=list)

    @property
    def run(self) -> RunFolder:
        """Where the training goes."""
        return RunFolder(self.folder / "run")

    def go(self) -> None:
        """All parts, in order.

        Raises:
            RuntimeError: a part failed, or what it left is not what it must be.
        """
        for split in self.splits:
            self._make(split)
            self._convert(split)
        self._train()
        self._evaluate()
        self._compare()

    def _make(self, split: Split) -> None:
        command = ["benchmarks.tiny_pictures", "--list", str(split.listed), "--images", self._images(split)]
        self._part(f"make {split.name} pictures", command, f"{split.num_rows:,} files, not a user's part")

    def _convert(self, split: Split) -> None:
        out = self._beton(split)
        convert = ["tools.convert_datasets", self.dataset, "--images", self._images(split)]
        convert += ["--list", str(split.listed), "--out", str(out)]
        self._part(f"convert {split.name}", convert, f"{split.num_rows:,} images")
        verify = ["tools.convert_datasets", "verify", str(out)]
        self._part(f"verify {split.name}", verify, f"{out.stat().st_size / 1e6:,.1f} MB")
        check(
            open_beton(out).counts.tolist() == split.counts.tolist(),
            f"{out}: the counts of its classes are not those of {split.listed}",
        )

    def _train(self) -> None:
        config = self._config()
        arguments = [word for name, value in config.items() for word in (f"--{name}", str(value))]
        arguments = ["--config", str(ROOT / "configs" / SETS[self.dataset].config), *arguments]
        settings, _ = parse_config(build_parser("rehearsal", ""), arguments)
        steps = -(-self.splits[0].num_rows // settings.optim.batch_size)
        middle = 3 * steps // 2 // settings.run.log_steps * settings.run.log_steps
        killer = Killer(self.run, after=max(steps, middle))
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
        command = [*torchrun, "--max-restarts", "1", "-m", "training.train", *arguments]
        watched = self._watched(command, killer)
        check(killer.killed_after is not None, "the training ended before one of its workers was killed")
        done = steps_logged(self.run.metrics)
        check(done == EPOCHS * steps, f"the training ended after step {done}, not {EPOCHS * steps}")
        what = f"{EPOCHS} epochs of {steps:,} steps; a worker killed after {killer.killed_after:,}, when the last "
        self._note(f"train on {RANKS} ranks", watched, f"{what}checkpoint was of {killer.saved:,}")

    def _config(self) -> dict[str, object]:
        """What differs from the configuration's file."""
        train, test = map(self._beton, self.splits)
        paths = {"data.train": train, "data.test": test, "run.folder": self.run.path}
        return {**paths, "run.device": "cpu", **SCALED_DOWN}

    def _evaluate(self) -> None:
        test, out = self._beton(self.splits[1]), self.folder / "evaluation.json"
        command = ["training.evaluate", "--checkpoint", str(self.run.last), "--data", str(test)]
        self._part("evaluate", [*command, "--json", str(out)], f"{self.splits[1].num_rows:,} images")
        evaluated = json.loads(out.read_text(encoding="utf-8"))
        again = evaluated["heads"][evaluated["inference_head"]]["all"]
        trained = read_run(self.run.path).summary["accuracy"]["all"]
        check(evaluated["images"] == self.splits[1].num_rows, f"{evaluated['images']} images were evaluated")
        check(abs(again - trained) <= SAME_FIGURE, f"top-1 is {again}, and was {trained} in the training")

    def _compare(self) -> None:
        command = ["tools.compare_runs", str(self.run.path), "--out", str(self.folder / "tables")]
        self._part("tables and pictures", command, "compare_runs of the run")

    def _part(self, name: str, command: list[str], what: str) -> None:
        self._note(name, self._watched(command), what)

    def _watched(self, command: list[str], look: Callable[[int], None] | None = None) -> Watched:
        print(f"\n$ python -m {' '.join(command)}", flush=True)
        return run_watched(["-m", *command], look=look, quiet=False)

    def _note(self, name: str, watched: Watched, what: str) -> None:
        self.parts.append(Part(name=name, watched=watched, what=what))

    def _images(self, split: Split) -> str:
        return str(self.folder / "images" / split.name)

    def _beton(self, split: Split) -> Path:
        return self.folder / f"{split.name}.beton"


def check(holds: bool, complaint: str) -> None:
    """Raise `RuntimeError` with the complaint unless it holds."""
    if not holds:
        raise RuntimeError(complaint)


def steps_logged(metrics: Path) -> int:
    """The latest training step in a metrics.jsonl that may be written to at this moment; 0 without one."""
    if not metrics.exists():
        return 0
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return max((entry["step"] for entry in entries if entry["kind"] == "train"), default=0)


def _local_rank(pid: int) -> int | None:
    """Which of torchrun's workers on this machine a process is; None for others."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has just ended
        return None
    ranks = [entry for entry in environment if entry.startswith(b"LOCAL_RANK=")]
    return int(ranks[0].removeprefix(b"LOCAL_RANK=")) if ranks else None


def table(parts: list[Part]) -> str:
    """Lay the parts out as text."""
    rows = [("part", "seconds", "CPU seconds", "peak MiB", "")]
    for part in parts:
        done = part.watched
        figures = (f"{done.seconds:,.1f}", f"{done.cpu_seconds:,.1f}", f"{done.peak_memory:,.0f}")
        rows.append((part.name, *figures, part.what))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            [
                name.ljust(widths[0]),
                *(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True)),
                what,
            ]
        ).rstrip()
        for name, *figures, what in rows
    )
