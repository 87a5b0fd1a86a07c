"""YAML and command line: what wins, what `--help` says, what is refused and how, and the way back to a file."""

from __future__ import annotations

import ast
import inspect
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import pytest

from pipelines.user_error import UserError
from training.command_line import build_parser, parse_config, write_config
from training.config import Config

MINIMUM = """\
method: glmc
data: {train: train.beton}
optim: {epochs: 7, batch_size: 6, lr: 0.05}
run: {folder: runs/x}
"""


@pytest.fixture
def minimum(tmp_path: Path) -> Path:
    path = tmp_path / "minimum.yaml"
    path.write_text(MINIMUM)
    return path


def parse(*arguments: str | Path) -> Config:
    return parse_config(build_parser("prog", "text"), [str(each) for each in arguments])[0]


def described_fields(section: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and source text of the docstring of each leaf, read from the source code itself."""
    body = ast.parse(inspect.getsource(section)).body[0].body  # type: ignore[attr-defined]
    texts: dict[str, str] = {}
    for node, following in pairwise(body):
        match node, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = text
    hints = get_type_hints(section)
    for each in fields(section):
        if is_dataclass(hints[each.name]):
            yield from described_fields(hints[each.name], f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}", texts[each.name]


def test_help_explains_every_field(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    described = dict(described_fields(Config))
    assert len(described) > 30
    assert {"method", "optim.lr", "view.pad", "mix.beta", "glmc.k", "data.val"} <= described.keys()
    for name, explanation in described.items():
        position = text.rfind(f"--{name} ")
        assert position > 0, name
        assert " ".join(explanation.split()) in text[position:], name


def test_the_command_line_wins_over_the_file_and_a_later_file_over_an_earlier(
    minimum: Path, tmp_path: Path
) -> None:
    later = tmp_path / "later.yaml"
    later.write_text("optim: {lr: 0.2}\nview: {mean: [0.1, 0.2, 0.3]}\n")
    assert parse("--config", minimum).optim.epochs == 7
    config = parse("--config", minimum, "--config", later, "--optim.epochs", "2", "--model.width", "16")
    assert (config.optim.epochs, config.optim.lr, config.optim.batch_size) == (2, 0.2, 6)
    assert config.view.mean == (0.1, 0.2, 0.3)
    assert config.model.width == 16


def test_every_shipped_configuration_reads() -> None:
    files = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    assert files
    for file in files:
        assert parse("--config", file).method in ("ce", "glmc")


def test_a_resolved_configuration_reads_back_equal(minimum: Path, tmp_path: Path) -> None:
    config = parse(
        *("--config", minimum, "--view.scale", "[0.1, 0.9]", "--view.size", "32", "--view.eval_resize", "40"),
        *("--mix.scope", "sample", "--glmc.k", "1.2", "--run.seed", str(2**62), "--optim.lr", "1e-05"),
        *("--glmc.balanced", "false", "--view.std", "[0.1, 0.2, 0.3]", "--data.val", "val beton's: #1.beton"),
    )
    write_config(config, tmp_path / "written.yaml")
    again = parse("--config", tmp_path / "written.yaml")
    assert again == config
    assert again.view.scale == (0.1, 0.9)
    assert again.run.seed == 2**62
    assert again.data.val == "val beton's: #1.beton"
    assert again.model.width is None


def test_the_parsers_other_arguments_come_apart(minimum: Path) -> None:
    parser = build_parser("prog", "text")
    parser.add_argument("--restart", action="store_true")
    assert not parse_config(parser, ["--config", str(minimum)])[1].restart
    assert parse_config(parser, ["--config", str(minimum), "--restart"])[1].restart


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nonsense", "3"), "unrecognized arguments: --nonsense 3"),
        (("--optim.nonsense", "3"), "unrecognized arguments: --optim.nonsense 3"),
        (("--optim.ep", "3"), "unrecognized arguments: --optim.ep 3"),  # no abbreviations
        (("--optim.epochs", "two"), "optim.epochs.*int.*two"),
        (("--optim.epochs", "2.5"), "optim.epochs.*int.*2.5"),
        (("--method", "sgd"), "method.*'ce', 'glmc'.*sgd"),
        (("--view.scale", "[0.1, 0.2, 0.3]"), "view.scale.*2 elements"),
        (("--config", "absent.yaml"), "does not exist.*absent.yaml"),
        (("--config", "."), "Path is not a file"),
        (("--view.size", "0"), "view.size is 0"),
        (("--mix.beta", "-1"), "mix.beta is -1.0"),
        (("--glmc.k", "-1"), "glmc.k is -1.0"),
        (("--optim.epochs", "0"), "optim.epochs is 0"),
        (("--method", "ce", "--glmc.gamma", "1"), "glmc.gamma has no effect with method ce"),
        (("stray",), "unrecognized arguments: stray"),
    ],
)
def test_mistakes_on_the_command_line(minimum: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        parse("--config", minimum, *arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense: 3\n", "Option 'nonsense' is not accepted"),
        (b"optim: {nonsense: 3}\n", "Group 'optim' does not accept option 'nonsense'"),
        (b"optim: {epochs: many}\n", "optim.epochs.*int.*many"),
        (b"method: [ce\n", "Problems parsing config"),
        (b"just text\n", "Unexpected config: just text"),
        (b"", "Unexpected config"),
        (b"method: \xff\xfe\n", "not UTF-8"),
    ],
)
def test_mistakes_in_a_file(minimum: Path, tmp_path: Path, content: bytes, message: str) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        parse("--config", minimum, "--config", wrong)
    assert "\n" not in str(refused.value)


def test_what_is_required_is_named() -> None:
    with pytest.raises(UserError, match=r"required: .*data\.train, .*optim\.epochs, .*run\.folder"):
        parse("--method", "ce")


def test_a_process_ends_with_one_sentence_and_status_2(
    tmp_path: Path,
    options: Callable[..., list[str]],
    start_process: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start_process(options(tmp_path / "run", "--optim.nonsense", "3"))
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 2
    assert out == ""
    (line,) = errors.splitlines()
    assert line == "fasttail-train: unrecognized arguments: --optim.nonsense 3 (see --help)"
    assert not (tmp_path / "run").exists()
