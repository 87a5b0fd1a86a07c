"""Writers of one file in processes of their own meet at its lock, and never lose its name to one another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
