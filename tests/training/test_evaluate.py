"""The command on real checkpoints: its figures recounted, its files read back, two ranks, mistakes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from scipy import sparse, stats
from sklearn import metrics

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import RAW_MODE, SMALLEST_PAGE
from pipelines.beton.reader import open_beton
from pipelines.beton.writer import write_beton
from pipelines.sources.image_list import from_rows
from training.evaluate import main
from training.model import build_model
from training.train import main as train

COUNTS = [int(120 * 50 ** (-c / 9)) for c in range(10)]
Arrays = dict[str, np.ndarray]


def arguments(checkpoint: Path, data: Path, out: Path) -> list[str]:
    files = {"json": out / "e.json", "save-outputs": out / "o.safetensors", "confusion": out / "c.npz"}
    written = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    return [
        "--checkpoint",
        str(checkpoint),
        "--data",
        str(data),
        "--device",
        "cpu",
        "--threads",
        "1",
        *written,
    ]


@pytest.fixture(scope="module")
def alone(
    glmc_run: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Arrays, np.ndarray]:
    """One process over the test digits: what it wrote as JSON, as outputs and as confusion matrix."""
    out = tmp_path_factory.mktemp("alone")
    assert main(arguments(glmc_run / "checkpoints" / "last.pt", digits / "test.beton", out)) == 0
    confusion = sparse.load_npz(out / "c.npz").toarray()
    return json.loads((out / "e.json").read_text()), load_file(out / "o.safetensors"), confusion


def test_counts_equal_a_recount_and_the_runs_own_summary(
    alone: tuple[dict[str, Any], Arrays, np.ndarray],
    glmc_run: Path,
    recount: Callable[[Path], tuple[dict[str, list[int]], float]],
) -> None:
    result, _, _ = alone
    right, spread = recount(glmc_run / "checkpoints" / "last.pt")
    for head, counts in right.items():
        assert result["heads"][head]["per_class"] == [count / 50 for count in counts]
    assert result["projection_spread"] == pytest.approx(spread, rel=1e-4)
    ours, run = result["heads"]["rebalanced"], json.loads((glmc_run / "summary.json").read_text())["accuracy"]
    error = pytest.approx(run["calibration_error"], abs=1e-6)  # of batches of another size
    assert ours == {**run, "calibration_error": error}
    assert (result["inference_head"], result["images"], result["chosen"]) == ("rebalanced", 500, "")
    assert result["train_counts"] == COUNTS


def test_outputs_are_those_of_the_network_in_the_order_of_the_file(
    alone: tuple[dict[str, Any], Arrays, np.ndarray], glmc_run: Path, digits: Path
) -> None:
    _, outputs, _ = alone
    beton = open_beton(digits / "test.beton")
    assert np.array_equal(outputs["labels"], beton.labels)
    assert len(set(beton.labels[:20].tolist())) == 1, "the order shows in the features only"
    weights = torch.load(glmc_run / "checkpoints" / "last.pt", weights_only=True)["model"]
    model = build_model("resnet8", 10, width=4)
    model.load_state_dict(weights)
    pixels = beton.raw_images()
    assert pixels is not None
    images = torch.from_numpy((pixels.astype(np.float64) / 255 - 0.305) / 0.323).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = model.double().eval().backbone(images).numpy()
    assert np.allclose(outputs["features"], features, rtol=1e-4, atol=1e-4)
    assert not np.allclose(features[:50], features[1:51], rtol=1e-2, atol=1e-2)
    for head in ("conventional", "rebalanced"):
        matrix, bias = (weights[f"{head}_head.{part}"].numpy() for part in ("weight", "bias"))
        expected = features @ matrix.T.astype(np.float64) + bias
        assert np.allclose(outputs[f"logits_{head}"], expected, rtol=1e-4, atol=1e-4)
    assert {name: (array.shape, array.dtype) for name, array in outputs.items()} == {
        "logits_conventional": ((500, 10), np.dtype("float32")),
        "logits_rebalanced": ((500, 10), np.dtype("float32")),
        "features": ((500, 16), np.dtype("float32")),
        "labels": ((500,), np.dtype("int64")),
    }


def test_figures_follow_from_the_saved_outputs(alone: tuple[dict[str, Any], Arrays, np.ndarray]) -> None:
    result, outputs, confusion = alone
    labels = outputs["labels"]
    for head, figures in result["heads"].items():
        logits = outputs[f"logits_{head}"].astype(np.float64)
        predicted = logits.argmax(1)
        recalls = metrics.recall_score(labels, predicted, average=None, zero_division=0)
        assert figures["per_class"] == pytest.approx(recalls.tolist())
        assert figures["top5"] == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=5))
        assert figures["geometric_mean"] == pytest.approx(stats.gmean(recalls))
        assert figures["harmonic_mean"] == pytest.approx(stats.hmean(recalls))
        confidence = np.exp(logits).max(1) / np.exp(logits).sum(1)
        means, _, _ = stats.binned_statistic(
            -confidence, [predicted == labels, confidence], "sum", bins=np.linspace(-1, 0, 16)
        )
        expected = np.abs(means[0] - means[1]).sum() / len(labels)
        assert figures["calibration_error"] == pytest.approx(expected, abs=1e-5)
        if head == result["inference_head"]:
            assert np.array_equal(confusion, metrics.confusion_matrix(labels, predicted))
            worst = max((confusion[i, j], -i, -j) for i in range(10) for j in range(10) if i != j)
            assert result["most_confused"][0] == [-worst[1], -worst[2], worst[0]]


def test_two_ranks_write_the_same_with_uneven_shares(
    alone: tuple[dict[str, Any], Arrays, np.ndarray],
    glmc_run: Path,
    digits: Path,
    tmp_path: Path,
    start_process: Callable[..., subprocess.Popen[str]],
) -> None:
    """Six steps of 2 x 48 images: the last has 20, all of rank 0, so the ranks have 260 and 240."""
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training.evaluate")
    more = ["--batch-size", "48"]
    command = arguments(glmc_run / "checkpoints" / "last.pt", digits / "test.beton", tmp_path) + more
    process = start_process(command, module=torchrun)
    printed, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert printed.count("500 images") == 1
    result, outputs, confusion = alone
    theirs = load_file(tmp_path / "o.safetensors")
    assert np.array_equal(theirs["labels"], outputs["labels"])
    for name, array in outputs.items():
        assert np.allclose(theirs[name], array, rtol=1e-4, atol=1e-5), name
    assert np.array_equal(sparse.load_npz(tmp_path / "c.npz").toarray(), confusion)
    again = json.loads((tmp_path / "e.json").read_text())
    for name in ("projection_spread", *(f"heads/{head}/calibration_error" for head in result["heads"])):
        place, ours = again, result
        *path, key = name.split("/")
        for part in path:
            place, ours = place[part], ours[part]
        assert place[key] == pytest.approx(ours[key], abs=1e-6)
        place[key] = ours[key]
    assert again == result


def test_the_best_checkpoint_says_what_chose_it(
    glmc_run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = json.loads((glmc_run / "summary.json").read_text())["best"]
    assert main(arguments(glmc_run / "checkpoints" / "best.pt", digits / "test.beton", tmp_path)) == 0
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["heads"]["rebalanced"]["all"] == best["chosen_at"]
    chosen = (
        f"epoch {best['epoch']}, chosen as the best on data.test, the test set itself, as the literature does"
    )
    assert chosen in capsys.readouterr().out
    with safe_open(tmp_path / "o.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["chosen"].startswith(chosen)
    assert metadata["inference_head"] == "rebalanced"
    assert metadata["trained_heads"] == "conventional,rebalanced"


def test_the_table(
    glmc_run: Path,
    digits: Path,
    alone: tuple[dict[str, Any], Arrays, np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [
        "--checkpoint",
        str(glmc_run / "checkpoints" / "last.pt"),
        "--data",
        str(digits / "test.beton"),
    ]
    capsys.readouterr()
    assert main([*command, "--device", "cpu", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["conventional", "rebalanced", "*"] in rows
    heads = alone[0]["heads"]
    for label, name in (("all images", "all"), ("few (5 of 10 classes)", "few"), ("worst class", "worst")):
        cells = [f"{100 * heads[head][name]:.1f}" for head in ("conventional", "rebalanced")]
        assert [*label.split(), *cells] in rows
    cells = [f"{100 * heads[head]['shifted']['backward50']:.1f}" for head in ("conventional", "rebalanced")]
    assert ["backward50", *cells] in rows
    label, taken_for, images = alone[0]["most_confused"][0]
    names = open_beton(digits / "test.beton").class_names
    assert f"{images} images of {names[label]} were taken for {names[taken_for]}" in printed


def test_a_run_saves_the_outputs_of_its_last_epoch_and_its_one_head_is_evaluated(
    tmp_path: Path, digits: Path, options: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ce"
    command = options(
        folder, "--save-outputs", "--data.val", str(digits / "train.beton"), method="ce", epochs=1
    )
    assert train(command) == 0
    outputs = {split: load_file(folder / f"outputs_{split}.safetensors") for split in ("val", "test")}
    assert [len(each["labels"]) for each in outputs.values()] == [331, 500]
    hits = outputs["test"]["logits_conventional"].argmax(1) == outputs["test"]["labels"]
    assert hits.mean() == pytest.approx(json.loads((folder / "summary.json").read_text())["accuracy"]["all"])
    assert main(arguments(folder / "checkpoints" / "best.pt", digits / "test.beton", tmp_path)) == 0
    result = json.loads((tmp_path / "e.json").read_text())
    assert list(result["heads"]) == ["conventional"]
    assert result["chosen"] == "epoch 0, chosen as the best on data.val"
    assert result["projection_spread"] is None
    capsys.readouterr()
    assert train(command) == 0
    assert "training.evaluate saves its outputs" in capsys.readouterr().out


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(command) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    return line.removeprefix("fasttail-evaluate: ")


def write_noise(path: Path, classes: int) -> None:
    """A beton of three 32 x 32 noise images of each class."""
    pixels = np.random.default_rng(0).integers(0, 256, (3 * classes, 32, 32, 3), np.uint8)
    names = [str(label) for label in range(classes)]
    labels = np.repeat(np.arange(classes), 3)
    images = from_rows([f"{i}" for i in range(len(labels))], labels, names, kind="noise", name=path.stem)
    encoded = (EncodedImage(image.tobytes(), RAW_MODE, 32, 32, copied=False) for image in pixels)
    write_beton(path, images, encoded, settings={}, page_size=SMALLEST_PAGE)


def test_sets_of_other_classes_are_refused(
    glmc_run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_noise(tmp_path / "eleven.beton", 11)
    last, eleven = str(glmc_run / "checkpoints" / "last.pt"), str(tmp_path / "eleven.beton")
    line = refused(["--checkpoint", last, "--data", eleven], capsys)
    assert line == (
        f"{last} tells 10 classes apart and --data {eleven} has 11; give images of the classes it was trained on"
    )
    line = refused(["--checkpoint", last, "--data", str(digits / "test.beton"), "--train", eleven], capsys)
    assert "tells 10 classes apart and the training set" in line
    assert "has 11; give the set it was trained on with --train" in line


def test_fewer_classes_are_no_mistake(glmc_run: Path, tmp_path: Path) -> None:
    write_noise(tmp_path / "seven.beton", 7)
    assert main(arguments(glmc_run / "checkpoints" / "last.pt", tmp_path / "seven.beton", tmp_path)) == 0
    figures = json.loads((tmp_path / "e.json").read_text())["heads"]["rebalanced"]
    assert [value is None for value in figures["per_class"]] == [False] * 7 + [True] * 3
    assert list(figures["shifted"]) == ["forward3", "forward2", "uniform", "backward2", "backward3"]


@pytest.fixture
def changed_checkpoint(glmc_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A maker of copies of the run's last checkpoint, `change` applied to what is in them."""

    def make(change: Callable[[dict[str, Any]], None]) -> Path:
        content = torch.load(glmc_run / "checkpoints" / "last.pt", weights_only=True)
        change(content)
        torch.save(content, tmp_path / "changed.pt")
        return tmp_path / "changed.pt"

    return make


def test_a_training_set_that_moved_is_asked_for(
    changed_checkpoint: Callable[..., Path], digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = changed_checkpoint(lambda content: content["config"]["data"].update(train="gone.beton"))
    command = ["--checkpoint", str(moved), "--data", str(digits / "test.beton"), "--device", "cpu"]
    line = refused(command, capsys)
    assert line.startswith(f"gone.beton: the training set that {moved} names is not here")
    assert line.endswith("give its path with --train")
    assert main([*command, "--train", str(digits / "train.beton")]) == 0


def test_another_training_set_of_that_name_is_told(
    changed_checkpoint: Callable[..., Path],
    glmc_run: Path,
    digits: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = torch.load(glmc_run / "checkpoints" / "last.pt", weights_only=True)["data"]
    assert saved == {split: open_beton(digits / f"{split}.beton").digest for split in ("train", "test")}
    other = changed_checkpoint(lambda content: content["data"].update(train=saved["test"]))
    command = ["--checkpoint", str(other), "--data", str(digits / "test.beton"), "--device", "cpu"]
    line = refused(command, capsys)
    assert line.startswith(f"{digits / 'train.beton'} is another file than {other} was trained on")
    assert main([*command, "--train", str(digits / "train.beton")]) == 0


def spoil(content: dict[str, Any]) -> None:
    content["model"]["conventional_head.bias"][3] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["config"].update(nonsense=3), "another version of fasttail .*nonsense"),
        (lambda content: content["config"]["model"].update(width=8), "does not fit the model: backbone"),
        (spoil, "its logits are not finite numbers; use an earlier checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    changed_checkpoint: Callable[..., Path],
    digits: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    wrong = changed_checkpoint(change)
    line = refused(
        ["--checkpoint", str(wrong), "--data", str(digits / "test.beton"), "--device", "cpu"], capsys
    )
    assert line.startswith(str(wrong))
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--checkpoint", "absent.pt"), "absent.pt: no such checkpoint"),
        (("--checkpoint", "TEST"), "test.beton is not a whole checkpoint of fasttail"),
        (("--data", "absent.beton"), "absent.beton: cannot open the beton: No such file"),
        (("--data", "LAST"), "last.pt: not a beton"),
        (("--batch-size", "0"), "--batch-size 0: give a larger number"),
        (("--threads", "-1"), "--threads -1: give a larger number"),
        (("--json", "no/such/folder.json"), "the folder of the output does not exist"),
        (("--save-outputs", "."), "the output is a folder"),
        (("--precision", "fp16"), "fp16 needs a GPU"),
    ],
)
def test_mistakes_are_one_sentence(
    glmc_run: Path, digits: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str], message: str
) -> None:
    files = {"TEST": str(digits / "test.beton"), "LAST": str(glmc_run / "checkpoints" / "last.pt")}
    command = ["--checkpoint", files["LAST"], "--data", files["TEST"], "--device", "cpu"]
    assert message in refused([*command, *(files.get(part, part) for part in more)], capsys)
