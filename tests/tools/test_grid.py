"""The grid: what it refuses before it starts, and real runs side by side, failed, continued, interrupted."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from scipy import stats

from pipelines.beton.format import SMALLEST_PAGE
from pipelines.beton.writer import write_beton
from pipelines.sources.digits import digits_split
from pipelines.user_error import UserError
from tools.grid import Progress, exit_status, last_words, main, slots_for, visible_gpus
from tools.grid_runs import parse_axis, plan_runs
from tools.grid_table import FIGURES, grid_table

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
CE, GLMC = (str(CONFIGS / f"digits_lt_{method}.yaml") for method in ("ce", "glmc"))
SHORT = ["--optim.epochs=1", "--model.width=4", "--data.threads=1", "--run.device=cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings that name a tiny Digits-LT."""
    folder = tmp_path_factory.mktemp("digits")
    for split in ("train", "test"):
        images, encoded = digits_split(split, 50.0, 0)
        write_beton(folder / f"{split}.beton", images, encoded, settings={}, page_size=SMALLEST_PAGE)
    return [f"--data.train={folder}/train.beton", f"--data.test={folder}/test.beton"]


@pytest.fixture
def start() -> Iterator[type[subprocess.Popen[str]]]:
    """Starts `tools/grid.py`; killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def begin(arguments: list[str]) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(REPOSITORY / "tools" / "grid.py"), *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_axes() -> None:
    assert parse_axis("optim.lr=0.05,0.1") == ("optim.lr", ["0.05", "0.1"])
    assert parse_axis("view.scale=[0.08,1],[0.2,1]") == ("view.scale", ["[0.08,1]", "[0.2,1]"])
    assert parse_axis("--method=ce") == ("method", ["ce"])
    for text, message in [
        ("optim.lr", "give a setting and its values, as"),
        ("optim.lr=", "give a setting"),
        ("=1", "give a setting"),
        ("optim.lr=1,,2", "give a setting"),
        ("optim.lr=1,1", "name each value once"),
        ("run.seed=1,2", "--vary run.seed: give --seeds"),
        ("run.folder=a", "give --out"),
    ]:
        with pytest.raises(UserError, match=message):
            parse_axis(text)


def test_plan_is_every_combination_seed_by_seed(data: list[str], tmp_path: Path) -> None:
    axes = ["optim.lr=0.05,0.1", "optim.momentum=0.8,0.9,0.95"]
    runs = plan_runs([CE, GLMC], axes, [3, 1], data, tmp_path)
    assert len(runs) == 2 * 2 * 3 * 2
    assert [run.seed for run in runs] == [3] * 12 + [1] * 12
    found = [(run.config.method, run.config.optim.lr, run.config.optim.momentum) for run in runs[:12]]
    wanted = [(m, lr, b) for m in ("ce", "glmc") for lr in (0.05, 0.1) for b in (0.8, 0.9, 0.95)]
    assert found == wanted
    assert runs[7].name == "config=digits_lt_glmc,optim.lr=0.05,optim.momentum=0.9,seed=3"
    assert all(Path(run.config.run.folder) == tmp_path / run.name for run in runs)
    assert all(run.config.run.seed == run.seed for run in runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "optim.lr=0.1,-1"], r"optim.lr=-1, ?seed=0: optim.lr is -1.0: it must be above 0"),
        (["--vary", "optim.rate=1"], r"optim.rate=1, seed=0: .*optim.rate.*\(see --help\)"),
        (["--vary", "optim.lr=1", "--vary", "optim.lr=2"], "name each setting once"),
        (["--config", CE], "--config .*: name each file once"),
        (["--seeds", "0,0"], "--seeds 0,0: name each seed once"),
        (["--vary", "sampler.q=0.3"], "sampler.q has no effect with method ce"),
        (["--vary", "data.train=none.beton"], "none.beton: cannot open the beton"),
        (["--vary", "data.test=null"], "data.test=null, seed=0: the table shows the accuracy on data.test"),
        (
            ["--vary", f"optim.lr=0.{'0' * 240}1"],
            "a folder cannot have so long a name; put what all runs have in",
        ),
        (["--jobs", "0"], "--jobs 0: give 1 or more"),
        (["--", "--run.seed=3"], "--run.seed after --: give --seeds"),
        (["--", "--optim.lr", "3"], "'--optim.lr' after --: write settings for all runs as"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    arguments: list[str], message: str, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [] if "--" in arguments else ["--", *data]
    assert main(["--config", CE, "--out", str(tmp_path / "out"), *arguments, *own]) == 2
    complained = capsys.readouterr().err
    assert len(complained.splitlines()) == 1
    assert re.search(message, complained), complained
    assert not (tmp_path / "out").exists()


def test_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("tools.grid.available_cpus", lambda: 17)
    (alone,) = slots_for([], None)
    assert "CUDA_VISIBLE_DEVICES" not in alone
    assert (alone["LOCAL_WORLD_SIZE"], alone["OMP_NUM_THREADS"]) == ("1", "17")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_for(["2", "5"], None)] == ["2", "5"]
    five = slots_for(["2", "5"], 5)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in five] == ["2", "5", "2", "5", "2"]
    assert {slot["OMP_NUM_THREADS"] for slot in five} == {"3"}
    assert {slot["LOCAL_WORLD_SIZE"] for slot in five} == {"5"}
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "OMP_NUM_THREADS" not in slots_for([], 2)[0]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    # CUDA counts 2 of all of these: what follows one that does not exist is not seen.
    for named in ("3,GPU-abc", "3, GPU-abc", "3,GPU-abc,", "3,GPU-abc,-1,4", "3,GPU-abc,99"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_gpus() == ["3", "GPU-abc"]


def test_table_by_hand() -> None:
    cells = [(("optim.lr", lr),) for lr in ("0.1", "0.2", "0.3", "0.4")]
    values = {("0.1", 0): 0.70, ("0.1", 1): 0.74, ("0.1", 2): 0.60, ("0.2", 2): 0.66, ("0.2", 1): 0.75}
    values["0.3", 1] = 0.9  # one seed in common says nothing of a difference
    rows = [
        {"cell": {"optim.lr": lr}, "seed": seed, **dict.fromkeys(FIGURES, 0.5), "all": value, "few": None}
        for (lr, seed), value in values.items()
    ]
    lines = grid_table(cells, rows).splitlines()
    assert lines[1].split()[:4] == ["optim.lr", "seeds", "All", "Many"]
    assert lines[2].split("  ")[0] == "0.1" and "68.0 ± 7.2" in lines[2] and "-" in lines[2].split()
    assert lines[3].split()[:4] == ["0.2", "2", "70.5", "±"]
    assert lines[4].split()[:3] == ["0.3", "1", "90.0"]
    assert lines[5].split() == ["0.4", "0", *["-"] * len(FIGURES)]
    paired = stats.ttest_rel([0.75, 0.66], [0.74, 0.60]).confidence_interval(0.95)
    assert lines[6] == (
        f"optim.lr=0.2 - optim.lr=0.1, All: +3.5 points, paired 95 % interval {100 * paired.low:+.1f} to "
        f"{100 * paired.high:+.1f} (Student's t, 2 seeds)"
    )
    assert len(lines) == 7


def test_what_is_not_started(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = plan_runs([CE], ["optim.lr=1,2,3"], [0], data, tmp_path)
    progress = Progress(3, slots_for([], 1))
    with runs[0].log.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert [progress.start(runs[0], 0) for _ in range(2)] == [None, None]
    assert progress.left == [runs[0]]
    runs[1].folder.path.mkdir()
    runs[1].folder.summary.touch()
    assert runs[1].is_finished and progress.start(runs[1], 0) is None
    runs[2].log.mkdir()
    assert progress.start(runs[2], 0) is None and progress.failed == [runs[2]]

    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr("tools.grid.start_module", lambda *what: what)
    assert progress.start(runs[0], 0) is not None and progress.left == []


def test_a_stopped_run_asks_for_the_same_command(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = plan_runs([CE], [], [0], data, tmp_path)
    progress = Progress(1, slots_for([], 1), begun={run.name: 0.0})
    for status in (75, -signal.SIGTERM):  # it saved; it had not begun to listen
        progress.ended(run, status)
    assert capsys.readouterr().out.count("seed=0: stopped; the same command continues it") == 2
    assert progress.failed == []
    asked = ([], [signal.SIGINT], [signal.SIGTERM, signal.SIGINT], [signal.SIGUSR1])
    assert [exit_status(progress, [run], signals) for signals in asked] == [0, 130, 75, 75]
    assert "Left to" not in capsys.readouterr().out
    progress.left.append(run)
    assert exit_status(progress, [run], []) == 0
    assert capsys.readouterr().out.startswith(
        "Left to other processes: seed=0; the same command reads them when"
    )


def test_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 20000 + "\nwhy it failed\n\n  \n")
    assert last_words(log) == "why it failed"
    log.write_text("\n")
    assert last_words(log) == "it said nothing"


def test_a_run_that_fails_is_told_and_the_others_go_on(
    data: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another process is at the second while the first is trained, and the third's folder cannot be written."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "optim.lr=0.4,seed=0").touch()
    arguments = ["--config", CE, "--vary", "optim.lr=0.1,0.3,0.4", "--out", str(out), "--jobs", "2"]
    waits = (
        f"while not os.path.exists({str(out / 'optim.lr=0.1,seed=0' / 'summary.json')!r}): time.sleep(0.01)"
    )
    with (out / "optim.lr=0.3,seed=0.log").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        other = subprocess.Popen(
            [sys.executable, "-c", f"import os, time\n{waits}"], pass_fds=[log.fileno()]
        )  # holds the lock
    assert main([*arguments, "--", *data, *SHORT]) == 1
    assert other.wait() == 0
    printed, complained = capfd.readouterr()
    assert complained == ""
    left, begun = (printed.index(f"optim.lr=0.3,seed=0: {what}") for what in ("left to another", "begins"))
    assert left < printed.index("optim.lr=0.1,seed=0: all ") < begun
    assert "Left to other processes" not in printed
    failure = next(line for line in printed.splitlines() if "FAILED with status 2" in line)
    assert failure.startswith("optim.lr=0.4,seed=0") and "cannot be written (File exists)" in failure
    assert "1 of 3 runs failed" in printed

    # The same command again, with the obstacles gone: what is finished is read, not run.
    rows = json.loads((out / "rows.json").read_text())["rows"]
    assert [row["cell"] for row in rows] == [{"optim.lr": "0.1"}, {"optim.lr": "0.3"}]
    summary = out / "optim.lr=0.1,seed=0" / "summary.json"
    written = json.loads(summary.read_text())
    assert rows[0]["all"] == written["accuracy"]["all"]
    written["accuracy"]["all"] = 0.123
    summary.write_text(json.dumps(written))
    (out / "optim.lr=0.4,seed=0").unlink()
    capfd.readouterr()
    assert main([*arguments, "--", *data, *SHORT]) == 0
    printed, complained = capfd.readouterr()
    assert complained == ""
    assert "3 runs, 2 finished before, 2 at once" in printed
    assert "optim.lr=0.1,seed=0: begins" not in printed and "12.3" in printed
    assert len(json.loads((out / "rows.json").read_text())["rows"]) == 3

    # Other settings in the same folder are refused.
    assert main([*arguments, "--", *data, *SHORT, "--optim.batch_size=16"]) == 2
    complained = capfd.readouterr().err
    assert "holds a run with other settings: optim.batch_size (32 there, 16 here)" in complained

    # A result that cannot be read is known before the others are trained.
    summary.write_text(summary.read_text()[:-5])
    assert main([*arguments, "--seeds", "0,1", "--", *data, *SHORT]) == 2
    assert "optim.lr=0.1,seed=0/summary.json: cannot be read" in capfd.readouterr().err
    assert not (out / "optim.lr=0.1,seed=1.log").exists()


def test_ctrl_c_ends_the_runs_and_leaves_none_behind(
    start: type[subprocess.Popen[str]], data: list[str], tmp_path: Path
) -> None:
    arguments = ["--config", CE, "--seeds", "0,1,2", "--out", str(tmp_path / "out"), "--jobs", "2"]
    grid = start([*arguments, "--", *data, *SHORT, "--optim.epochs=100000"])
    deadline = time.monotonic() + 600
    while len(list((tmp_path / "out").glob("*/config.yaml"))) < 2:
        assert grid.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(grid.pid).children()
    assert len(children) == 2
    assert all(os.getpgid(child.pid) != os.getpgid(grid.pid) for child in children)
    grid.send_signal(signal.SIGINT)
    printed, _ = grid.communicate(timeout=600)
    assert grid.returncode == 130
    assert printed.count("stopped; the same command continues it") == 2
    assert "seed=2: begins" not in printed
    assert not any(child.is_running() for child in children)


def test_runs_do_not_outlive_a_grid_that_is_killed(
    start: type[subprocess.Popen[str]], data: list[str], tmp_path: Path
) -> None:
    arguments = ["--config", CE, "--out", str(tmp_path / "out"), "--", *data, *SHORT]
    grid = start([*arguments, "--optim.epochs=100000"])
    deadline = time.monotonic() + 600
    while not list((tmp_path / "out").glob("*/config.yaml")):
        assert grid.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(grid.pid).children()
    grid.kill()
    grid.communicate()
    _, alive = psutil.wait_procs(children, timeout=600)
    assert len(children) == 1 and not alive
