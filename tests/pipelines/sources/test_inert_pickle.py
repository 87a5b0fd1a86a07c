"""Pickles are read and never run: the honest ones give what Python gives, the others are refused."""

from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.inert_pickle import InertArray, read_inert_pickle
from pipelines.user_error import UserError


class Attack:
    """Pickled, a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def write(folder: Path, content: Any, protocol: int = 2) -> Path:
    path = folder / "batch"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_honest_pickles(tmp_path: Path, protocol: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    path = write(
        tmp_path, {"data": pixels, "labels": [3, 1], "names": ["a", "é"], "more": {"x": 1}}, protocol
    )
    content = read_inert_pickle(path)
    assert (content["labels"], content["names"], content["more"]) == ([3, 1], ["a", "é"], {"x": 1})
    assert isinstance(content["data"], InertArray)
    assert content["data"].raw_bytes(path) == pixels.tobytes()


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    # As Python 2 wrote it: 8-bit strings (opcodes S, U), which come out as text.
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nI4\ntcnumpy\ndtype\n"
    array += b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nU\x04\x00\x7f\x80\xfftb"
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02}(S'data'\n" + array + b"S'labels'\n(I6\nleu.".replace(b"leu.", b"lu."))
    content = read_inert_pickle(path)
    assert content["data"].raw_bytes(path) == b"\x00\x7f\x80\xff"
    assert content["labels"] == [6]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "touch {}"), "posix.system"),
        ((eval, "open('{}', 'w')"), "builtins.eval"),
        ((exec, "open('{}', 'w')"), "builtins.exec"),
        ((getattr, 1, "real"), "builtins.getattr"),
        ((np.load, "{}"), r"numpy.*load"),
        ((Path, "{}"), "pathlib.*Path"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused(tmp_path: Path, call: Any, name: str, protocol: int) -> None:
    planted = tmp_path / "planted"
    function, *arguments = call
    filled = [text.format(planted) if isinstance(text, str) else text for text in arguments]
    path = write(tmp_path, {"data": Attack(function, *filled)}, protocol)
    name = name.replace("builtins", "(builtins|__builtin__)")
    with pytest.raises(
        UserError, match=rf"batch: refused, .* it asks for {name}.*, which no CIFAR file needs"
    ):
        read_inert_pickle(path)
    assert not planted.exists()
    # The attacks that leave a trace do leave it where Python itself reads the file: the test can fail.
    if function is os.system:
        pickle.loads(path.read_bytes())
        assert planted.exists()


def test_attributes_of_the_records_cannot_be_replaced(tmp_path: Path) -> None:
    # BUILD on the class instead of an instance: would set attributes of the class for all later files.
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02cnumpy\nndarray\n(N}X\x07\x00\x00\x00plantedK\x01stb.")
    assert "BUILD" in {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    with pytest.raises(UserError, match="refused"):
        read_inert_pickle(path)
    assert not hasattr(InertArray, "planted")


def test_arrays_that_are_no_pixels(tmp_path: Path) -> None:
    for array in (
        np.zeros(3, np.float32),
        np.array([{}], object),
        np.asfortranarray(np.zeros((2, 3), np.uint8)),
    ):
        path = write(tmp_path, {"data": array})
        with pytest.raises(UserError, match="batch: the pixels are no plain array of bytes"):
            read_inert_pickle(path)["data"].raw_bytes(path)


def test_no_dictionary_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch: no CIFAR file, for it holds no dictionary"):
        read_inert_pickle(write(tmp_path, [1]))
    with pytest.raises(UserError, match="nowhere: cannot read the file: No such file"):
        read_inert_pickle(tmp_path / "nowhere")


HONEST = pickle.dumps({"data": np.arange(12, dtype=np.uint8), "labels": [1, 2]}, 2)


@settings(max_examples=200)
@given(st.integers(0, len(HONEST)), st.integers(0, 20), st.binary(max_size=10))
def test_any_damage_is_read_or_refused(tmp_path: Path, start: int, length: int, put: bytes) -> None:
    path = tmp_path / "batch"
    path.write_bytes(HONEST[:start] + put + HONEST[start + length :])
    try:
        content = read_inert_pickle(path)
    except UserError as error:
        assert "batch" in str(error)
    else:
        assert isinstance(content, dict)
