"""The colour kernels against torchvision on Pillow images: interpreted, compiled, and (marked gpu) on a GPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from torch import from_numpy

from pipelines.augment_gpu import (
    PIXELS_AT_ONCE,
    WORD_OF_COLUMNS,
    WORD_OF_ROWS,
    _box_blur,
    _change_colours,
    augment_on_device,
    colour_parameters,
)
from pipelines.augment_reference import augment
from pipelines.draws.colours import ColourDraws
from pipelines.mix_kernel import WARPS, WORDS
from pipelines.user_error import UserError

Array = NDArray[np.uint8]
ORDERS = np.array(list(permutations(range(3))), np.uint8)


def _photographs(n: int, height: int, width: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    photos = load_sample_images().images
    views = np.empty((n, height, width, 3), np.uint8)
    for i in range(n):
        y, x = rng.integers(427 - height + 1), rng.integers(640 - width + 1)
        views[i] = photos[i % 2][y : y + height, x : x + width]
    return views


def _noise(n: int, height: int, width: int, seed: int = 0) -> Array:
    """All levels beside each other."""
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3)).astype(np.uint8)


def _colour(n: int, **fields: object) -> ColourDraws:
    """Draws that change nothing, but for the fields that are named; every order."""
    defaults = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "gray": False, "blur_sigma": 0.0}
    arrays = {
        name: np.resize(np.asarray(value), n).astype(bool if name == "gray" else np.float32)
        for name, value in (defaults | fields).items()
    }
    return ColourDraws(order=np.resize(ORDERS, (n, 3)), **arrays)


def _official_recipe(n: int, seed: int) -> ColourDraws:
    rng = np.random.default_rng(seed)
    factors = {name: rng.uniform(0.6, 1.4, n) for name in ("brightness", "contrast", "saturation")}
    sigma = np.where(rng.random(n) < 0.5, rng.uniform(0.1, 2, n), 0)
    return _colour(n, gray=rng.random(n) < 0.2, blur_sigma=sigma, **factors)


@pytest.fixture
def difference(interpreted: Callable[..., None]) -> Callable[[Array, ColourDraws], int]:
    """The largest difference of the kernels from the reference, in levels."""

    def measure(views: Array, colour: ColourDraws) -> int:
        changed = from_numpy(views.copy())
        interpreted(augment_on_device, [changed], colour_parameters([colour], torch.device("cpu")))
        return int(np.abs(changed.numpy().astype(int) - augment(views, colour)).max())

    return measure


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_factor_is_exact_for_every_level(difference: Callable[..., int], name: str) -> None:
    """Factors from none to an impossible much; 25 x 43 pixels are more than a program takes at once."""
    factors = [0, 0.3, 0.6, 0.999, 1, 1.25, 1.4, 10]
    views = _noise(len(factors), 25, 43)
    assert views[0, :, :, 0].size > PIXELS_AT_ONCE
    assert difference(views, _colour(len(factors), **{name: factors})) == 0


def test_contrast_is_about_the_true_mean_of_each_view(difference: Callable[..., int]) -> None:
    flat = np.stack([np.full((3, 5, 3), level, np.uint8) for level in range(0, 256, 17)])
    assert difference(flat, _colour(len(flat), contrast=0.0)) == 0
    assert difference(_noise(20, 1, 2), _colour(20, contrast=0.0)) == 0  # means at x.5, rounded up
    assert difference(_photographs(6, 20, 30), _colour(6, contrast=1.9, brightness=0.5, saturation=3.0)) == 0


def test_grayscale_is_exact(difference: Callable[..., int]) -> None:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, 18, -1, 3)
    assert difference(colours, _colour(1, gray=True)) == 0
    # luminances of exactly x.5, which are rounded up, and of the least bit below
    halves = np.arange(27)[:, None] + np.array([[0, 52, 184, 0, 62, 229]])
    assert difference(halves.reshape(1, 27, 2, 3).astype(np.uint8), _colour(1, gray=True)) == 0


@pytest.mark.parametrize(("height", "width"), [(19, 16), (21, 32), (1, 1), (2, 1), (1, 3), (7, 5)])
def test_blur_is_pillows(difference: Callable[..., int], height: int, width: int) -> None:
    """Rows of 48 and 96 bytes are whole words of columns; the others are not."""
    sigmas = np.array([0.1, 0.5, 0.9, 1.3, 1.4142135, 1.4142137, 1.7, 2, 3, 7.5])
    views = _photographs(len(sigmas), height, width)
    views[::2] = _noise(len(sigmas[::2]), height, width)
    assert difference(views, _colour(len(sigmas), blur_sigma=sigmas)) == 0


def test_the_official_recipe_on_photographs(difference: Callable[..., int]) -> None:
    views, colour = _photographs(12, 40, 53), _official_recipe(12, seed=3)
    assert difference(views, colour) == 0
    assert np.abs(augment(views, colour).astype(int) - views).max() > 50  # there is something to find


@pytest.mark.parametrize(("tensors", "n"), [(2, 5), (3, 4), (3, 1)])
def test_views_of_several_draws_and_in_several_tensors(
    interpreted: Callable[..., None], tensors: int, n: int
) -> None:
    """Draws of two streams for the views in each tensor; in memory the tensors lie in another order, with gaps."""
    views = _photographs(2 * n * tensors, 12, 11).reshape(tensors, 2, n, 12, 11, 3)
    colours = [_official_recipe(n, seed) for seed in range(2 * tensors)]
    memory = torch.full((2 * tensors, 2 * n, 12, 11, 3), 77, dtype=torch.uint8)
    changed = [memory[2 * (tensors - v) - 1] for v in range(tensors)]
    for each, view in zip(changed, views, strict=True):
        each.copy_(from_numpy(view.reshape(2 * n, 12, 11, 3)))
    interpreted(augment_on_device, changed, colour_parameters(colours, torch.device("cpu")))
    for v, each in enumerate(changed):
        expected = [augment(views[v, stream], colours[2 * v + stream]) for stream in range(2)]
        np.testing.assert_array_equal(each.numpy(), np.concatenate(expected))
    assert (memory[::2] == 77).all()  # nothing between them is touched


def test_only_blurred_views_have_weights_of_a_blur() -> None:
    colour = _colour(5, blur_sigma=[0, 1.5, 0, 0, 0.3])
    parameters = colour_parameters([colour, colour], torch.device("cpu"))
    assert parameters.blurred.tolist() == [1, 4, 6, 9]
    assert parameters.boxes[:, 2].tolist() == [1, 0, 1, 0]  # radii


def test_nothing_to_do_is_no_error(interpreted: Callable[..., None]) -> None:
    none = colour_parameters([_colour(0)], torch.device("cpu"))
    interpreted(augment_on_device, [torch.empty((0, 4, 5, 3), dtype=torch.uint8)], none)


def test_tensors_of_a_cpu_are_refused_in_one_sentence() -> None:
    parameters = colour_parameters([_colour(2)], torch.device("cpu"))
    with pytest.raises(UserError, match=r"given tensors on cpu: it needs an NVIDIA GPU"):
        augment_on_device([from_numpy(_noise(2, 4, 5))], parameters)


@pytest.mark.parametrize("arch", [80, 90])
def test_colours_compile_without_fused_multiplication(compiled: Callable[..., str], arch: int) -> None:
    """A fused one rounds once where Pillow rounds twice."""
    types = {"views": ("*u8", "*u8"), "n": "i32", "order": "*u8", "factors": "*fp32", "gray": "*u1"}
    size = {"PIXELS": 224 * 224, "BLOCK": PIXELS_AT_ONCE}
    options = {"num_warps": 2 * WARPS, "enable_fp_fusion": False}
    ptx = compiled(_change_colours, arch, types, size, types.keys() - {"n"}, **options)
    assert "mul.rn.f32" in ptx  # with its rounding named, the assembler does not fuse it either
    assert "fma" not in ptx
    assert "mul.f32" not in ptx


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("along_rows", "word", "load", "store"),
    [(True, WORD_OF_ROWS, "b8", "b32"), (False, WORD_OF_COLUMNS, "v4.b32", "v4.b32")],
)
def test_blur_of_columns_moves_whole_words(
    compiled: Callable[..., str], arch: int, along_rows: bool, word: int, load: str, store: str
) -> None:
    """Of which of two tensors, is known only there."""
    types = {"views": ("*u8", "*u8"), "n": "i32", "scratch": "*u8", "blurred": "*i32", "boxes": "*i32"}
    size = {"HEIGHT": 224, "WIDTH": 224, "WORD": word, "WORDS": WORDS}
    for into_views in (False, True):
        flags = {"ALONG_ROWS": along_rows, "INTO_VIEWS": into_views}
        ptx = compiled(_box_blur, arch, types, flags | size, types.keys() - {"n"}, num_warps=WARPS)
        loads = set(re.findall(r"ld\.global\.(\S+)", ptx))
        assert loads == {load, "b32"}  # the weights of the box are 32-bit loads
        assert set(re.findall(r"st\.global\.(\S+)", ptx)) == {store}


@pytest.mark.gpu
@pytest.mark.parametrize(("height", "width"), [(224, 224), (33, 57)])
def test_a_gpu_changes_colours_like_pillow(height: int, width: int) -> None:
    views, colour = _photographs(40, height, width), _official_recipe(40, seed=5)
    changed = [from_numpy(part).cuda() for part in (views[:20], views[20:])]
    augment_on_device(changed, colour_parameters([colour], torch.device("cuda")))
    assert np.abs(torch.cat(changed).cpu().numpy().astype(int) - augment(views, colour)).max() <= 2
