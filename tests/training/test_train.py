"""Whole runs, as a user starts, stops, continues, repeats and mistypes them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import training.train
from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import RAW_MODE, SMALLEST_PAGE
from pipelines.beton.writer import write_beton
from pipelines.sources.image_list import from_rows
from training.checkpoint import load_checkpoint
from training.train import main

REPOSITORY = Path(__file__).resolve().parents[2]
RATES = ("pairs_per_second", "images_per_second")

Options = Callable[..., list[str]]
Start = Callable[..., subprocess.Popen[str]]


def entries(folder: Path) -> list[dict[str, Any]]:
    """What a run logged, without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in RATES} for line in lines]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def result(folder: Path) -> dict[str, Any]:
    """The summary without what depends on the machine's speed."""
    return {key: value for key, value in summary(folder).items() if key not in (*RATES, "seconds")}


def state(folder: Path) -> dict[str, Any]:
    """Every value of model and optimizer in last.pt by its path, tensors as bytes."""

    def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, torch.Tensor):
            yield path, value.numpy().tobytes()
        elif isinstance(value, dict | list):
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                yield from flat(each, f"{path}/{key}")
        else:
            yield path, value

    checkpoint = load_checkpoint(folder / "checkpoints" / "last.pt")
    values = dict(flat({"model": checkpoint.model, "optimizer": checkpoint.optimizer}, ""))
    assert any("momentum_buffer" in path for path in values)
    return values


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file but the lock, which says who held it last."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which a start ends that exits with status 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fasttail-train: ")
    return line


@pytest.fixture
def copied_run(glmc_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return shutil.copytree(glmc_run, tmp_path / "copied")


def write_noise(path: Path, counts: list[int]) -> None:
    """A beton of 32 x 32 noise images."""
    pixels = np.random.default_rng(0).integers(0, 256, (sum(counts), 32, 32, 3), np.uint8)
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [str(label) for label in range(len(counts))]
    images = from_rows(
        [f"noise/{i}" for i in range(len(labels))], labels, names, kind="noise", name=path.stem
    )
    encoded = (EncodedImage(image.tobytes(), RAW_MODE, 32, 32, copied=False) for image in pixels)
    write_beton(path, images, encoded, settings={}, overwrite=True, page_size=SMALLEST_PAGE)


def test_a_run_leaves_everything_that_is_promised(glmc_run: Path) -> None:
    files = {str(file.relative_to(glmc_run)) for file in glmc_run.rglob("*") if file.is_file()}
    assert {
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    } <= files
    pictures = [glmc_run / name for name in files if name.startswith("report/") and name.endswith(".png")]
    assert pictures
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert [name for name in files if name.startswith("tensorboard/events.out.tfevents")]
    assert not [name for name in files if "partial" in name or "writable" in name]
    assert yaml.safe_load((glmc_run / "config.yaml").read_text())["optim"]["epochs"] == 3


def test_every_logged_value_is_finite_and_accuracies_are_fractions(glmc_run: Path) -> None:
    logged = entries(glmc_run)
    steps = {kind: [e["step"] for e in logged if e["kind"] == kind] for kind in ("train", "eval")}
    assert steps == {"train": [4, 6, 8, 12, 16, 18], "eval": [6, 6, 12, 12, 18, 18]}
    for entry in logged:
        assert all(np.isfinite(value) for value in entry.values() if isinstance(value, int | float))
        if entry["kind"] == "eval":
            assert all(0 <= entry[name] <= 1 for name in ("all", "many", "medium", "few"))
            assert 0 <= entry["projection_spread"] <= 1
    train = [entry for entry in logged if entry["kind"] == "train"]
    assert [entry["epoch"] for entry in train] == [0, 0, 1, 1, 2, 2]
    assert [entry["alpha"] for entry in train[::2]] == pytest.approx([1, 1 - 1 / 9, 1 - 4 / 9])
    assert [entry["learning_rate"] for entry in train[::2]] == pytest.approx([0.05, 0.0375, 0.0125])
    for entry in train:
        parts = entry["alpha"] * entry["loss_conventional"] + (1 - entry["alpha"]) * entry["loss_rebalanced"]
        assert entry["loss"] == pytest.approx(parts + 4 * entry["loss_consistency"], abs=1e-4)


def test_the_saved_configuration_is_the_same_run_in_another_folder(glmc_run: Path, tmp_path: Path) -> None:
    """Bit by bit, also with other threads, batches ahead and log entries."""
    again = tmp_path / "again"
    other = ["--data.threads", "2", "--data.prefetch", "1", "--run.log_steps", "5"]
    assert main(["--config", str(glmc_run / "config.yaml"), "--run.folder", str(again), *other]) == 0
    assert state(again) == state(glmc_run)
    assert result(again) == result(glmc_run)


def test_another_seed_is_another_run_and_evaluations_may_be_rare(glmc_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    more = ["--run.folder", str(other), "--run.seed", "1", "--run.eval_epochs", "2"]
    assert main(["--config", str(glmc_run / "config.yaml"), *more]) == 0
    ours, theirs = state(other), state(glmc_run)
    assert ours.keys() == theirs.keys()
    assert ours != theirs
    assert [e["epoch"] for e in entries(other) if e["kind"] == "eval"] == [1, 1, 2, 2]


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_run_goes_on_to_the_same_bits(
    glmc_run: Path, tmp_path: Path, options: Options, start_process: Start
) -> None:
    folder = tmp_path / "killed"
    arguments = options(folder, "--run.log_steps", "4", epochs=3)
    process = start_process(["10", *arguments], module=("tests.training.held_run",))
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and '"step": 8,' in metrics.read_text(), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert load_checkpoint(folder / "checkpoints" / "last.pt").step == 6
    with metrics.open("a") as file:
        file.write('{"kind": "tra')  # a line that the kill cut off
    assert main(arguments) == 0
    assert state(folder) == state(glmc_run)
    assert entries(folder) == entries(glmc_run)
    assert result(folder) == result(glmc_run)


def test_an_interrupted_run_says_one_line_and_keeps_its_checkpoint(
    tmp_path: Path, options: Options, start_process: Start
) -> None:
    folder = tmp_path / "interrupted"
    process = start_process(options(folder, method="ce", epochs=1000))
    wait_until((folder / "checkpoints" / "last.pt").exists, process)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    last = f"{folder}/checkpoints/last.pt"
    assert f"Stopped by a signal. {last} holds the run; the same command goes on from there" in printed
    lines = [line for line in errors.replace("\r", "\n").split("\n") if line.strip() and "step/s" not in line]
    assert [line for line in lines if "s/step" not in line] == []  # the progress bar alone, fast or slow
    assert load_checkpoint(folder / "checkpoints" / "last.pt").step >= 6
    assert not (folder / "summary.json").exists()


def test_a_finished_run_started_again_says_so_and_changes_nothing(
    copied_run: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(copied_run)
    assert main(options(copied_run, epochs=3)) == 0
    assert capsys.readouterr().out == f"{copied_run} holds this run, finished; --restart begins it anew\n"
    assert snapshot(copied_run) == before


def test_restart_begins_anew(
    copied_run: Path, options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: torchrun, whose store this process stands in for, repeats the command to go on, and so does Slurm."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    agent = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
    }
    for name, value in agent.items():
        monkeypatch.setenv(name, value)
    (copied_run / "notes.txt").write_text("mine")
    assert main(options(copied_run, "--restart", method="ce", epochs=1)) == 0
    assert summary(copied_run)["method"] == "ce"
    assert [(e["kind"], e["step"]) for e in entries(copied_run)] == [("train", 6), ("eval", 6)]
    last = load_checkpoint(copied_run / "checkpoints" / "last.pt")
    assert last.step == 6
    weights = [name for name in last.model if name.endswith(("weight", "bias"))]
    assert len(last.optimizer["param_groups"][0]["params"]) == len(weights) - 6, (
        "ce trains one of four layers"
    )
    assert len(list((copied_run / "tensorboard").iterdir())) == 1
    assert (copied_run / "notes.txt").read_text() == "mine"
    before = snapshot(copied_run)
    for queued_again in (False, True):
        if queued_again:
            monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
            monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        capsys.readouterr()
        assert main(options(copied_run, "--restart", method="ce", epochs=1)) == 0
        assert "its first start has obeyed --restart" in capsys.readouterr().out
        assert snapshot(copied_run) == before


def test_asked_to_stop_before_the_first_step_or_after_the_last_a_run_asks_to_be_started_again(
    copied_run: Path,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    brought_to_disk: list[str],
) -> None:
    shutil.rmtree(copied_run / "report")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    moments = {"build_trainer": signal.SIGTERM, "write_report": signal.SIGUSR1}

    def ended(status: int) -> None:
        raise SystemExit(status)

    for name, number in moments.items():
        with monkeypatch.context() as patch:
            patch.setattr(os, "_exit", ended)
            patch.setattr(training.train, name, lambda *_, number=number, **__: os.kill(os.getpid(), number))
            with pytest.raises(SystemExit) as left:
                main(options(copied_run, epochs=3))
        assert left.value.code == 75
        assert f"{number.name}: nothing had to be saved; the same command" in capfd.readouterr().err
        assert {number: signal.getsignal(number) for number in before} == before
    assert main(options(copied_run, epochs=3)) == 0
    assert len(list((copied_run / "report").iterdir())) == 7
    assert ".summary.json.partial" in brought_to_disk


def test_settings_of_the_step_reach_it(tmp_path: Path, options: Options) -> None:
    """Twice the learning rate for twice the reference batch, and BatchNorm counts the parts of a batch."""
    speed = ("--optim.lr_scaling", "linear", "--optim.lr_reference_batch", "32", "--optim.accumulate", "2")
    assert main(options(tmp_path, *speed, "--optim.implementation", "fused", epochs=1)) == 0
    (trained,) = [entry for entry in entries(tmp_path) if entry["kind"] == "train"]
    assert trained["learning_rate"] == pytest.approx(0.1)
    last = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert last.model["backbone.bn1.num_batches_tracked"] == 6 * 2 * 2, "steps, parts and views"
    assert last.optimizer["param_groups"][0]["fused"]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (("--run.precision", "fp16", "--run.device", "cpu"), "fp16 needs a GPU"),
        (("--model.backbone", "resnet9"), "'resnet9' is not known"),
        (("--view.size", "31"), "view.size is 31"),
        (("--data.train", "absent.beton"), "absent.beton"),
        (("--optim.schedule", "warmup-cosine-cvpr"), "end within the warm-up"),
        (("--optim.accumulate", "3"), "share of 64 pairs does not divide by it"),
        (("--model.sync_batchnorm", "true", "--run.device", "cpu"), "model.sync_batchnorm needs GPUs"),
    ],
)
def test_a_restart_that_is_refused_removes_nothing(
    copied_run: Path,
    options: Options,
    capsys: pytest.CaptureFixture[str],
    mistake: tuple[str, ...],
    message: str,
) -> None:
    before = snapshot(copied_run)
    assert message in refused(options(copied_run, "--restart", *mistake, epochs=3), capsys)
    assert snapshot(copied_run) == before


def test_other_settings_in_a_folder_that_holds_a_run_are_refused(
    copied_run: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(copied_run)
    line = refused(options(copied_run, "--optim.lr", "0.1", "--run.seed", "3", epochs=4), capsys)
    assert (
        "optim.epochs (3 there, 4 here); optim.lr (0.05 there, 0.1 here); run.seed (0 there, 3 here)" in line
    )
    assert "--restart" in line
    assert snapshot(copied_run) == before


def test_torn_and_foreign_checkpoints_are_passed_over_for_the_one_before(
    glmc_run: Path, copied_run: Path, options: Options
) -> None:
    """last.pt and the newest step, so that the run goes on from the epoch before, to the same bits."""
    checkpoints = copied_run / "checkpoints"
    (checkpoints / "last.pt").write_bytes((checkpoints / "last.pt").read_bytes()[:-1000])
    (checkpoints / "step_00000018.pt").write_bytes(b"\x89PNG\r\n")
    before = checkpoints / "step_00000012.pt"
    with pytest.warns(UserWarning, match="is not a whole checkpoint") as warned:
        assert main(options(copied_run, "--run.log_steps", "4", epochs=3)) == 0
    said = [str(warning.message) for warning in warned]
    assert len(said) == 2
    for line, torn in zip(said, ("last.pt", "step_00000018.pt"), strict=True):
        assert line.startswith(f"{checkpoints / torn} is not a whole checkpoint of fasttail")
        assert line.endswith(f". {before}, before it, is taken instead")
    assert state(copied_run) == state(glmc_run)
    assert entries(copied_run) == entries(glmc_run)
    assert result(copied_run) == result(glmc_run)


def test_a_folder_whose_checkpoints_are_all_torn_is_refused_and_kept(
    copied_run: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (copied_run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1000])
    before = snapshot(copied_run)
    line = refused(options(copied_run, epochs=3), capsys)
    assert "last.pt is not a whole checkpoint" in line
    assert "no other checkpoint is here, so --restart begins anew" in line
    assert snapshot(copied_run) == before


@pytest.mark.parametrize("counts", [[9, 5, 2], [9, 5, 3, 2]])
def test_a_run_on_another_set_of_the_same_name_is_refused(
    counts: list[int], tmp_path: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many classes or more, but no setting differs."""
    train = tmp_path / "train.beton"
    arguments = options(
        tmp_path / "run", "--data.train", str(train), "--data.test", str(train), method="ce", epochs=1
    )
    write_noise(train, [9, 5, 3])
    assert main(arguments) == 0
    (tmp_path / "run" / "summary.json").unlink()
    write_noise(train, counts)
    before = snapshot(tmp_path / "run")
    line = refused(arguments, capsys)
    assert f"{tmp_path / 'run'} holds a run whose data.train was another file than {train} is now" in line
    assert snapshot(tmp_path / "run") == before


def test_a_test_set_with_more_classes_is_refused(
    tmp_path: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    write_noise(tmp_path / "three.beton", [9, 5, 3])
    line = refused(options(tmp_path / "run", "--data.train", str(tmp_path / "three.beton")), capsys)
    assert "test.beton has 10 classes and data.train" in line
    assert "three.beton has 3: they must be of one set" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    line = refused(options(tmp_path / "file" / "run"), capsys)
    assert "cannot be written (Not a directory); choose another" in line


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_what_was_good(
    tmp_path: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step leaves finite weights that no later step can use; it alone is saved."""
    folder = tmp_path / "run"
    more = ("--optim.lr", "1e30", "--run.max_bad_steps", "3", "--checkpoint.minutes", "1e-9")
    assert main(options(folder, *more)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fasttail-train")]
    assert (
        "the loss was not finite in 3 steps in a row, from step 2 (epoch 0); they changed no weight" in line
    )
    assert "lower optim.lr (it is 1e+30)" in line
    assert "checkpoints/last.pt is from before them" in line
    assert not (folder / "summary.json").exists()
    last = load_checkpoint(folder / "checkpoints" / "last.pt")
    assert last.step == 1
    assert all(value.isfinite().all() for value in last.model.values())
    steps = json.loads((folder / "bad_steps.json").read_text())
    assert [step["step"] for step in steps] == [2, 3, 4]
    assert {len(step[stream]) for step in steps for stream in ("uniform", "reversed")} == {64}
    for stream in ("uniform", "reversed"):
        assert f"{stream} {', '.join(image['path'] for image in steps[0][stream][:3])}" in line


def test_a_bad_step_now_and_then_is_counted_and_left_out(
    glmc_run: Path, copied_run: Path, options: Options
) -> None:
    """A weight that is infinite makes every step bad; below the limit the run ends, with weights as they were."""
    path = copied_run / "checkpoints" / "step_00000012.pt"
    for other in (copied_run / "checkpoints").iterdir():
        if other != path:
            other.unlink()
    (copied_run / "summary.json").unlink()
    saved = torch.load(path, weights_only=True)
    saved["model"]["conventional_head.bias"][3] = torch.inf
    torch.save(saved, path)
    assert main(options(copied_run, "--run.log_steps", "4", "--run.max_bad_steps", "7", epochs=3)) == 0
    train = [entry for entry in entries(copied_run) if entry["kind"] == "train"]
    assert [entry["bad_steps"] for entry in train] == [0, 0, 0, 0, 4, 2]
    assert ["loss" in entry for entry in train] == [True] * 4 + [False] * 2
    last = load_checkpoint(copied_run / "checkpoints" / "last.pt")
    assert (last.step, int(last.bad_in_a_row)) == (18, 6)
    for name, value in last.model.items():
        assert torch.equal(value, saved["model"][name]), name
    assert not (copied_run / "bad_steps.json").exists()


def test_data_val_chooses_the_best_epoch_and_data_test_reports(
    digits: Path, tmp_path: Path, options: Options
) -> None:
    """Validated on the test digits, tested on the training digits: the two differ in every epoch."""
    splits = ["--data.val", str(digits / "test.beton"), "--data.test", str(digits / "train.beton")]
    folder = tmp_path / "val"
    assert main(options(folder, *splits, method="ce", epochs=3)) == 0
    logged = [e for e in entries(folder) if e["kind"] == "eval"]
    val, test = ([e["all"] for e in logged if e["split"] == split] for split in ("val", "test"))
    assert all(on_val != on_test for on_val, on_test in zip(val, test, strict=True))
    best = summary(folder)["best"]
    assert (best["split"], best["epoch"]) == ("val", val.index(max(val)))
    assert best["chosen_at"] == max(val)
    assert best["all"] == test[best["epoch"]]
    assert summary(folder)["accuracy"]["all"] == test[-1]
    assert load_checkpoint(folder / "checkpoints" / "best.pt").step == 6 * (best["epoch"] + 1)
    assert {e["head"] for e in logged} == {"conventional"}
    assert {e["projection_spread"] for e in logged} == {None}


def test_without_a_test_set_there_is_no_accuracy(tmp_path: Path, options: Options) -> None:
    folder = tmp_path / "untested"
    assert main(options(folder, "--data.test", "null", method="ce", epochs=1)) == 0
    assert summary(folder)["accuracy"] is None
    assert summary(folder)["best"] is None
    assert not (folder / "checkpoints" / "best.pt").exists()


def test_photographs_from_a_list_to_a_result(
    tmp_path: Path, make_photographs: Callable[..., list[Path]]
) -> None:
    photographs = make_photographs(tmp_path / "images", 24)
    rows = [f"{photograph.name} {i % 3}\n" for i, photograph in enumerate(photographs)]
    (tmp_path / "train.txt").write_text("".join(rows[:15]))
    (tmp_path / "test.txt").write_text("".join(rows[15:]))
    for split in ("train", "test"):
        command = [
            sys.executable,
            str(REPOSITORY / "tools" / "convert_datasets.py"),
            "list",
            "--images",
            "images",
        ]
        command += ["--list", f"{split}.txt", "--out", f"{split}.beton"]
        subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, check=True)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: glmc\nview: {augment: jitter-gray-blur}\noptim: {epochs: 1, lr: 0.05}\n")
    folder = tmp_path / "run"
    arguments = ["--config", str(recipe), "--data.train", str(tmp_path / "train.beton")]
    arguments += [
        "--data.test",
        str(tmp_path / "test.beton"),
        "--view.size",
        "32",
        "--view.eval_resize",
        "40",
    ]
    arguments += ["--model.backbone", "resnet8", "--optim.batch_size", "8", "--run.folder", str(folder)]
    assert main(arguments) == 0
    accuracy = summary(folder)["accuracy"]
    assert summary(folder)["class_counts"] == [5, 5, 5]
    assert accuracy["many"] is None
    assert accuracy["medium"] is None
    assert accuracy["few"] == pytest.approx(accuracy["all"])  # three test images of each class
    assert accuracy["all"] * 9 == pytest.approx(round(accuracy["all"] * 9))
    assert [(e["kind"], e["step"]) for e in entries(folder)] == [("train", 2), ("eval", 2), ("eval", 2)]
