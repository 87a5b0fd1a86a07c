"""Tiny pictures: a whole JPEG at every path of a list, hardly two alike, tinted by class."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_row_has_a_picture_in_the_colour_of_its_class(tmp_path: Path) -> None:
    rows = [(f"train/c {label}/{i}.JPEG", label) for label in range(6) for i in range(100)]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path} {label}\n" for path, label in rows))
    command = ["-m", "benchmarks.tiny_pictures", "--list", str(listed), "--images", str(tmp_path / "images")]
    subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=True)
    contents, colours, shapes = set(), np.zeros((len(rows), 3)), set()
    for i, (path, _) in enumerate(rows):
        contents.add((tmp_path / "images" / path).read_bytes())
        with Image.open(tmp_path / "images" / path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            shapes.add(image.size)
            colours[i] = np.asarray(image).mean(axis=(0, 1))
    assert len(contents) > 0.98 * len(rows)
    assert all(len(content) < 3000 for content in contents)
    sides = {side for shape in shapes for side in shape}
    assert (min(sides), max(sides)) == (32, 48)
    assert any(width > height for width, height in shapes) and any(width < height for width, height in shapes)
    by_class = colours.reshape(6, 100, 3).mean(axis=1)
    apart = np.abs(by_class[:, None] - by_class[None]).max(axis=2)
    assert apart[~np.eye(6, dtype=bool)].min() > 10
    assert len(list((tmp_path / "images").rglob("*.JPEG"))) == len(rows)
