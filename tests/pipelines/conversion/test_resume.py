"""Killed at any moment and run again, a conversion ends with the bytes of one that nobody disturbed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.conversion import convert as conversion
from pipelines.conversion import tasks as conversion_tasks
from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import ImageSettings, encode_image
from pipelines.conversion.settings import ConversionSettings
from pipelines.sources.image_list import ImageList, read_list

SETTINGS = ConversionSettings(
    image=ImageSettings(max_size=150), on_bad="skip", order="shuffled", seed=7, source={"factor": 10}
)
ROWS = 520

KILLER = textwrap.dedent("""
    import os, random, signal, sys, time
    from itertools import cycle
    from pathlib import Path
    from PIL import Image
    from pipelines.conversion import convert as conversion
    from pipelines.conversion import tasks as conversion_tasks
    from pipelines.conversion.convert import convert_images
    from pipelines.conversion.settings import ConversionSettings
    from pipelines.conversion.image_bytes import ImageSettings
    from pipelines.sources.image_list import read_list

    root, out, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    SETTINGS = eval(sys.argv[4])
    conversion.PAGE_SIZE, conversion_tasks.NOTE_SECONDS = 1 << 18, 0.03
    rng = random.Random(11)
    images = read_list(root / "train.txt")
    start = time.monotonic()
    convert_images(images, root, out.with_name("warm.beton"), SETTINGS, workers=2)
    seconds = time.monotonic() - start
    journal = out.with_name(f".{out.name}.journal")
    def rows_noted():
        try:
            return len(journal.read_bytes().partition(b"\\n")[2])
        except FileNotFoundError:
            return 0
    finished, done = 0, 0
    late = cycle([False, False, False, True])
    while done < kills:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                result = convert_images(images, root, out, SETTINGS, workers=2)
                os.write(writer, str(result.resumed_from).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        over = False
        if next(late):  # however slow it is, something was noted when it is killed
            while rows_noted() == 0 and not over:
                time.sleep(0.001)
                over = os.waitpid(child, os.WNOHANG)[0] != 0
            time.sleep(rng.uniform(0, 0.1))
        else:
            time.sleep(rng.uniform(0, seconds))
        if not over and os.waitpid(child, os.WNOHANG)[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1
        report = os.read(reader, 100)
        os.close(reader)
        if report:
            finished += 1
            print("finished", report.decode())
            out.rename(out.with_name(f"whole{finished}"))
            Path(f"{out}.json").rename(out.with_name(f"whole{finished}.json"))
            Path(f"{out}.skipped.csv").rename(out.with_name(f"whole{finished}.csv"))
    last = convert_images(images, root, out, SETTINGS, workers=2)
    print("finished", last.resumed_from)
""")


@pytest.fixture
def photos(tmp_path: Path, make_photographs: Callable[..., list[Path]]) -> tuple[ImageList, Path]:
    """A list of rows of which half go in as they are, half are shrunk, and some are bad."""
    root = tmp_path / "images"
    files = make_photographs(root, 40, shortest=120, longest=220)
    files[9].write_bytes(b"no image")
    (root / "train.txt").write_text("".join(f"{files[i % 40].name} {i % 7}\n" for i in range(ROWS)))
    return read_list(root / "train.txt"), root


def test_killed_at_twenty_moments(
    tmp_path: Path, photos: tuple[ImageList, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, root = photos
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "PAGE_SIZE", 1 << 18)
        done = convert_images(images, root, tmp_path / "calm.beton", SETTINGS, workers=1)
    assert done.skipped == ROWS // 40
    killed = tmp_path / "killed"
    killed.mkdir()
    repository = Path(conversion.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", KILLER, root, killed / "calm.beton", "20", repr(SETTINGS)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    from_where = [int(line.split()[1]) for line in run.stdout.splitlines()]
    assert any(row > 0 for row in from_where), "no run ever went on where one was killed"
    wanted = [(tmp_path / f"calm.beton{end}").read_bytes() for end in ("", ".json", ".skipped.csv")]
    for whole in {path.name.split(".")[0] for path in killed.iterdir()} - {"calm", "warm", ""}:
        found = [(killed / f"{whole}{end}").read_bytes() for end in ("", ".json", ".csv")]
        assert found == wanted
    found = [(killed / f"calm.beton{end}").read_bytes() for end in ("", ".json", ".skipped.csv")]
    assert found == wanted
    assert not list(killed.glob(".*"))


def stop_after(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Note each task, and make a conversion fail after so many of them, as if its process had ended there."""
    monkeypatch.setattr(conversion_tasks, "NOTE_SECONDS", 0)
    monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 0)  # a row a task
    encode, seen = encode_image, []

    def failing(path: str, settings: ImageSettings) -> object:
        seen.append(path)
        if len(seen) > rows:
            raise InterruptedError(4, "stopped here")
        return encode(path, settings)

    monkeypatch.setattr(conversion_tasks, "encode_image", failing)


@pytest.mark.parametrize("damage", ["nothing", "torn journal", "lost bytes", "lost end", "no journal"])
def test_only_what_is_borne_out_is_built_on(
    tmp_path: Path, photos: tuple[ImageList, Path], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    images, root = photos
    monkeypatch.setattr(conversion, "PAGE_SIZE", 1 << 18)
    calm = convert_images(images, root, tmp_path / "calm.beton", SETTINGS)
    assert calm.resumed_from == 0
    with monkeypatch.context() as patched:
        stop_after(patched, 300)
        with pytest.raises(ValueError, match="stopped here"):
            convert_images(images, root, tmp_path / "x.beton", SETTINGS, workers=1)
    partial, journal = tmp_path / ".x.beton.partial", tmp_path / ".x.beton.journal"
    content = bytearray(partial.read_bytes())
    if damage == "torn journal":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif damage == "lost bytes":
        content[len(content) // 2] ^= 1
        partial.write_bytes(content)
    elif damage == "lost end":
        partial.write_bytes(content[:-1])
    elif damage == "no journal":
        journal.unlink()
    done = convert_images(images, root, tmp_path / "x.beton", SETTINGS)
    wanted = {
        "nothing": range(299, 301),
        "torn journal": range(298, 300),
        "lost bytes": range(60, 250),
        "lost end": range(298, 300),
        "no journal": range(1),
    }
    assert done.resumed_from in wanted[damage]
    for end in ("", ".json", ".skipped.csv"):
        assert (tmp_path / f"x.beton{end}").read_bytes() == (tmp_path / f"calm.beton{end}").read_bytes()
    assert (done.skipped, done.num_images, done.copied) == (calm.skipped, calm.num_images, calm.copied)
    assert not partial.exists() and not journal.exists()


def test_other_settings_begin_anew(
    tmp_path: Path,
    photos: tuple[ImageList, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, root = photos
    with monkeypatch.context() as patched:
        stop_after(patched, 30)
        with pytest.raises(ValueError, match="stopped here"):
            convert_images(images, root, tmp_path / "x.beton", SETTINGS, workers=1)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    (root / "00009.jpg").write_bytes(buffer.getvalue())
    done = convert_images(
        images, root, tmp_path / "x.beton", ConversionSettings(image=ImageSettings()), workers=1
    )
    assert (done.resumed_from, done.skipped) == (0, 0)
    assert (
        "a partial file of an earlier run is discarded, for it was made otherwise (max_size 150, now None, "
        "on_bad skip, now stop, order shuffled, now listed, order_seed 7, now None, factor 10, now None)"
    ) in capsys.readouterr().err
