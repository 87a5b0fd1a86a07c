"""Stage files of one machine become one file; those of two are refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import Facts
from benchmarks.measurement import CROP_FLIP, Row, row_of
from benchmarks.progress import unfinished
from benchmarks.report import machine_name, run
from benchmarks.results import read_json, write_json
from pipelines.user_error import UserError

MACHINE: Facts = {
    "cpu": "AMD EPYC",
    "cores": 2,
    "gpu": "NVIDIA H200",
    "load_average": 0.1,
    "memory_gib": 16.0,
}


def row(name: str, metric: str = "pairs_per_second") -> Row:
    return row_of([1, 2, 3], name=name, metric=metric, unit="pairs/s", augmentation=CROP_FLIP)


def write(folder: Path, stage: str, rows: list[Row], **changes: Any) -> None:
    facts: dict[str, Any] = {"machine": MACHINE, "versions": {"torch": "2.11.0"}, "commit": "abc", **changes}
    write_json(folder / f"{stage}.json", rows, **facts)


def join(folder: Path, out: Path) -> None:
    run(argparse.Namespace(folder=folder, out=out))


def test_stages_are_joined_with_the_tests_and_what_they_share_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = row("photographs", "mean_jpeg_kilobytes")
    write(tmp_path, "peers", [row("ours-cpu"), photographs])
    write(
        tmp_path,
        "loader",
        [row("ours-cpu/threads 2"), photographs],
        machine={**MACHINE, "load_average": 3.0, "memory_gib": 64.0},
    )
    write(tmp_path, "tests", [row_of([11], name="gpu-tests", metric="passed", unit="tests")])
    join(tmp_path, tmp_path / "out")
    [path] = (tmp_path / "out").glob("nvidia-h200-????-??-??.json")
    content = read_json(path)
    names = [(each.name, each.metric, each.median) for each in content["rows"]]
    assert names == [
        ("gpu-tests", "passed", 11),
        ("ours-cpu/threads 2", "pairs_per_second", 2),
        ("photographs", "mean_jpeg_kilobytes", 2),
        ("ours-cpu", "pairs_per_second", 2),
    ]
    assert (content["machine"]["gpu"], content["commit"]) == ("NVIDIA H200", "abc")
    pictures = sorted(each.name.removeprefix(path.stem) for each in path.parent.glob("*.png"))
    assert pictures == ["-loader.png", "-peers.png"]
    assert path.with_suffix(".txt").read_text() in capsys.readouterr().out


def test_what_two_stages_say_differently_is_told_apart(tmp_path: Path) -> None:
    """`convert` makes 2,048 photographs, the others 512: both have rows of the name `photographs`."""

    def sizes(count: int) -> Row:
        values = [float(100 + i % 7) for i in range(count)]
        return row_of(values, name="photographs", metric="jpeg_kilobytes", unit="kB")

    pixels = row_of([0.1875], name="photographs", metric="megapixels", unit="Mpx")
    write(tmp_path, "peers", [row("ours-cpu"), sizes(512), pixels])
    write(tmp_path, "loader", [row("ours-cpu/threads 2"), sizes(512), pixels])
    write(tmp_path, "convert", [row("ours/byte for byte"), sizes(2048), pixels])
    join(tmp_path, tmp_path / "out")
    [path] = (tmp_path / "out").glob("*.json")
    runs = {(each.name, each.metric): each.runs for each in read_json(path)["rows"]}
    assert runs == {
        ("ours-cpu/threads 2", "pairs_per_second"): 3,
        ("loader/photographs", "jpeg_kilobytes"): 512,
        ("loader/photographs", "megapixels"): 1,
        ("ours-cpu", "pairs_per_second"): 3,
        ("peers/photographs", "jpeg_kilobytes"): 512,
        ("peers/photographs", "megapixels"): 1,
        ("ours/byte for byte", "pairs_per_second"): 3,
        ("convert/photographs", "jpeg_kilobytes"): 2048,
        ("convert/photographs", "megapixels"): 1,
    }


def test_what_is_done_to_pictures_in_one_stage_only_is_told_apart(tmp_path: Path) -> None:
    """`mix` and `peers` both have rows of torchvision-v2, and only the latter crops."""
    mixing = row_of([70], name="torchvision-v2", metric="microseconds_per_batch", unit="µs")
    write(tmp_path, "mix", [mixing])
    write(tmp_path, "peers", [row("torchvision-v2"), row("ours-cpu")])
    join(tmp_path, tmp_path / "out")
    [path] = (tmp_path / "out").glob("*.json")
    assert {(each.name, each.augmentation) for each in read_json(path)["rows"]} == {
        ("mix/torchvision-v2", "none"),
        ("peers/torchvision-v2", CROP_FLIP),
        ("ours-cpu", CROP_FLIP),
    }


def test_a_package_that_came_later_parts_no_stages(tmp_path: Path) -> None:
    """But two versions of it do, whichever stages have them."""
    write(tmp_path, "mix", [row("our-kernel")])
    write(tmp_path, "decode", [row("best/dali-gpu")], versions={"torch": "2.11.0", "dali": "2.4.0"})
    join(tmp_path, tmp_path / "out")
    [path] = (tmp_path / "out").glob("*.json")
    assert read_json(path)["versions"] == {"torch": "2.11.0", "dali": "2.4.0"}
    write(tmp_path, "step", [row("net")], versions={"torch": "2.11.0", "dali": "2.5.0"})
    with pytest.raises(UserError, match=r"decode\.json and step\.json differ in versions"):
        join(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "other"),
    [("machine", {**MACHINE, "cores": 4}), ("versions", {"torch": "2.12.0"}), ("commit", "def")],
)
def test_stages_of_different_runs_are_refused(tmp_path: Path, key: str, other: Any) -> None:
    write(tmp_path, "peers", [row("ours-cpu")])
    write(tmp_path, "loader", [row("ours-cpu/threads 2")], **{key: other})
    with pytest.raises(UserError, match=f"loader.json and peers.json differ in {key}"):
        join(tmp_path, tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds none of"):
        join(tmp_path, tmp_path)


def test_a_stage_that_was_ended_is_joined_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "peers", [row("ours-cpu"), unfinished("peers")])
    write(tmp_path, "loader", [row("ours-cpu/threads 2")])
    join(tmp_path, tmp_path / "out")
    said = capsys.readouterr().out
    assert "\npeers was ended before its time: its rows are those that it had measured by then.\n" in said
    assert "loader was ended" not in said
    [path] = (tmp_path / "out").glob("*.json")
    assert {each.name for each in read_json(path)["rows"]} == {"ours-cpu", "peers", "ours-cpu/threads 2"}


def test_a_machine_is_named_by_its_gpu_or_its_cores() -> None:
    assert machine_name(MACHINE) == "nvidia-h200"
    assert machine_name({**MACHINE, "gpu": None}) == "2-core-amd-epyc"
