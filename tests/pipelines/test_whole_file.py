"""Writers of one file in processes of their own meet at its lock, and never lose its name to one another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.whole_file import partial_file, publish

ROOT = Path(__file__).resolve().parents[2]
BUSY = "another process is writing this file; wait for it, or end it"
WRITER = """
import json, sys
from collections import Counter
from pathlib import Path
from pipelines.user_error import UserError
from pipelines.whole_file import partial_file, publish

path, own, ended = Path(sys.argv[1]), sys.argv[2].encode(), Counter()
print("ready", flush=True)
sys.stdin.readline()
for _ in range(4000):
    try:
        with partial_file(path, overwrite=True) as file:
            file.write(own * 1000)
            publish(file, path)
        ended["written"] += 1
    except UserError as error:
        ended[str(error).removeprefix(f"{path}: ")] += 1
    content = path.read_bytes() if path.exists() else b""
    assert len(content) in (0, 1000) and len(set(content)) <= 1
print(json.dumps(ended))
"""


def test_writers_at_once_write_whole_files_or_are_told_of_another(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "x")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen(
            [*command, name], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    ended = [json.loads(writer.communicate()[0]) for writer in writers]
    assert all(each.keys() <= {"written", BUSY} for each in ended), ended
    assert sum(each.get("written", 0) for each in ended) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_name_is_given_between_the_bytes_and_the_entry_of_the_folder_reaching_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel is asked to bring to the disk, by the name that it has at that moment, and its size."""
    fsync, asked = os.fsync, list[tuple[str, int]]()

    def noting(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        asked.append((name.name, name.stat().st_size if name.is_file() else 0))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    path = tmp_path / "file"
    with partial_file(path, overwrite=False) as file:
        file.write(b"abc")
        publish(file, path)
    assert asked == [(".file.partial", 3), (tmp_path.name, 0)]
    assert path.read_bytes() == b"abc"
