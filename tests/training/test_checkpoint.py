"""A checkpoint comes back as it was, or is refused with a sentence; writing one never harms an earlier one."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.user_error import UserError
from training.checkpoint import (
    Checkpoint,
    config_differences,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from training.model import LongTailModel, build_model


def make_checkpoint(step: int = 12, classes: int = 5) -> tuple[LongTailModel, Checkpoint]:
    model = build_model("resnet8", classes, width=4, projection_dim=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(output.sum() for output in model(torch.randn(4, 3, 16, 16))).backward()
    optimizer.step()
    return model, Checkpoint(
        step=step,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        scaler={},
        config={"method": "ce", "optim": {"lr": 0.1}},
        last={"all": 0.5, "per_class": [None, 0.5]},
        best=None,
        seconds=1.5,
        versions={"torch": str(torch.__version__)},
    )


def assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs


def test_everything_comes_back(tmp_path: Path) -> None:
    _, checkpoint = make_checkpoint()
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(checkpoint, path)
    assert_same({**vars(load_checkpoint(path))}, {**vars(checkpoint)})
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_weights_go_into_a_model_of_the_same_shape_only(tmp_path: Path) -> None:
    model, checkpoint = make_checkpoint()
    path = tmp_path / "last.pt"
    same = build_model("resnet8", 5, width=4, projection_dim=6)
    assert not torch.equal(same.predictor.weight, model.predictor.weight)
    load_weights(same, checkpoint, path)
    assert_same(dict(same.state_dict()), dict(model.state_dict()))
    for other, message in (
        (
            build_model("resnet8", 7, width=4, projection_dim=6),
            r"conventional_head.bias is \(5,\) in the file",
        ),
        (build_model("resnet8", 5, width=8, projection_dim=6), r"and \(8,\) in the model; use the backbone"),
        (build_model("resnet32", 5, width=4, projection_dim=6), "is missing in the file"),
    ):
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(UserError, match=f"last.pt does not fit the model: .*{message}"):
            load_weights(other, checkpoint, path)
        assert_same(dict(other.state_dict()), before)


def test_a_torn_checkpoint_is_refused_at_any_length(tmp_path: Path) -> None:
    _, checkpoint = make_checkpoint()
    whole = tmp_path / "whole.pt"
    save_checkpoint(checkpoint, whole)
    content = whole.read_bytes()
    torn = tmp_path / "torn.pt"
    for length in (0, 1, 4, 100, len(content) // 3, len(content) // 2, len(content) - 100, len(content) - 1):
        torn.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"torn\.pt is not a whole checkpoint of fasttail .*; remove it"):
            load_checkpoint(torn)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """In the bytes of a weight, which read as another number, and in its momentum."""
    model, checkpoint = make_checkpoint()
    path = tmp_path / "flipped.pt"
    momentum = checkpoint.optimizer["state"][0]["momentum_buffer"]
    for tensor in (model.conventional_head.weight.detach(), momentum):
        save_checkpoint(checkpoint, path)
        content = bytearray(path.read_bytes())
        content[content.index(tensor.numpy().tobytes()) + 13] ^= 4
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"flipped\.pt is not a whole checkpoint of fasttail"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"hello\n", b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04", bytes(5000)]
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.pt is not a whole checkpoint"):
        load_checkpoint(path)


class RunsCode:
    """A pickle of this would run code when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_files_of_other_programs_and_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "other.pt"
    contents: list[Any] = [{"state_dict": {}}, [1, 2], {"step": RunsCode()}]
    for content in contents:
        torch.save(content, path)
        with pytest.raises(UserError, match=r"other\.pt is not a whole checkpoint"):
            load_checkpoint(path)
    assert not Path("ran").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


def test_a_disk_without_room_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """The kernel refuses to let the file grow past 20,000 bytes, as it refuses on a full disk."""
    path = tmp_path / "last.pt"
    save_checkpoint(make_checkpoint(step=1)[1], path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    _, later = make_checkpoint(step=2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"last\.pt: cannot write the checkpoint: File too large; make room"
        ):
            save_checkpoint(later, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(path).step == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"], "what was half written takes no room"


def test_differences_are_named_with_both_values() -> None:
    ours = {"method": "ce", "optim": {"lr": 0.1, "epochs": 3}, "view": {"std": [1, 2]}, "new": 1}
    saved = {"method": "ce", "optim": {"lr": 0.2, "epochs": 3}, "view": {"std": [1, 3]}}
    assert config_differences(ours, ours) == []
    assert config_differences(ours, saved) == [
        "new (None there, 1 here)",
        "optim.lr (0.2 there, 0.1 here)",
        "view.std ([1, 3] there, [1, 2] here)",
    ]
