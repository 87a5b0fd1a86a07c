"""The mix kernel: interpreted on a CPU, compiled for GPUs that are not here, and (marked gpu) run on one.

The interpreter cuts float32 off to bfloat16 where a GPU rounds to nearest, so one bfloat16 ulp is allowed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import torch
from torch import from_numpy

from pipelines.mix_kernel import WARPS, WORDS, _mix_views, _normalise_views, mix_views, normalise_views
from pipelines.mix_reference import mix, normalise
from pipelines.user_error import UserError
from pipelines.views import Views

MEAN, STD = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
ABSOLUTE = {torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
# of the value: nothing more for float32, one ulp of bfloat16, half an ulp of float16
RELATIVE = {torch.float32: 0.0, torch.bfloat16: 2**-7, torch.float16: 2**-11}


def _views(*shape: int, seed: int) -> torch.Tensor:
    return from_numpy(np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8))


def _random_boxes(n: int, height: int, width: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(0, height + 1, (n, 2)), axis=1)
    columns = np.sort(rng.integers(0, width + 1, (n, 2)), axis=1)
    boxes = np.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], axis=1)
    return from_numpy(boxes.astype(np.int32))


def _unwritten(n: int, height: int, width: int, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    """A channels-last batch of NaN."""
    return torch.full((n, height, width, 3), np.nan, dtype=dtype, device=device).permute(0, 3, 1, 2)


def _slow_mix(a: Views, b: Views, lam: torch.Tensor, boxes: torch.Tensor) -> np.ndarray:
    """A loop in float64: (2 n, 3, H, W)."""
    n, height, width = a[0].shape[:3]
    expected = np.full((2 * n, 3, height, width), np.nan)
    for i, y, x, c in np.ndindex(n, height, width, 3):
        weight = float(lam[i])
        mixed_up = weight * int(a[0][i, y, x, c]) + (1 - weight) * int(b[0][i, y, x, c])
        y0, x0, y1, x1 = boxes[i].tolist()
        cut_mixed = int((b if y0 <= y < y1 and x0 <= x < x1 else a)[1][i, y, x, c])
        expected[i, c, y, x] = (mixed_up / 255 - MEAN[c]) / STD[c]
        expected[n + i, c, y, x] = (cut_mixed / 255 - MEAN[c]) / STD[c]
    return expected


def _assert_near(out: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(
        out.double().cpu().numpy(), expected, atol=ABSOLUTE[out.dtype], rtol=RELATIVE[out.dtype]
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("n", "height", "width"), [(1, 1, 1), (3, 9, 1), (3, 5, 2), (1, 7, 5), (4, 9, 13), (2, 3, 70), (2, 8, 24)]
)
def test_every_element_against_a_slow_loop_in_float64(
    interpreted: Callable[..., None], n: int, height: int, width: int, dtype: torch.dtype
) -> None:
    a, b = ([_views(n, height, width, seed=seed) for seed in seeds] for seeds in ((0, 1), (2, 3)))
    lam = from_numpy(np.random.default_rng(2).random(n).astype(np.float32))
    boxes = _random_boxes(n, height, width, 3)
    out = _unwritten(2 * n, height, width, dtype)
    interpreted(mix_views, a, b, lam, boxes, MEAN, STD, out)
    _assert_near(out, _slow_mix(a, b, lam, boxes))


def test_a_pair_by_hand(interpreted: Callable[..., None]) -> None:
    """Two pixels: black and white; λ = 1/4; the box has the right one; mean 1/2 and std 1/2 give -1 to 1."""
    a, b = (
        torch.zeros((2, 1, 1, 2, 3), dtype=torch.uint8),
        torch.full((2, 1, 1, 2, 3), 255, dtype=torch.uint8),
    )
    out = _unwritten(2, 1, 2, torch.float32)
    half = (0.5, 0.5, 0.5)
    boxes = torch.tensor([[0, 1, 1, 2]], dtype=torch.int32)
    interpreted(mix_views, a, b, torch.tensor([0.25]), boxes, half, half, out)
    torch.testing.assert_close(out[0], torch.full((3, 1, 2), 0.5))
    torch.testing.assert_close(out[1], torch.tensor([-1.0, 1.0]).expand(3, 1, 2))


@pytest.mark.parametrize(("height", "width"), [(3, 5), (7, 1)])
def test_every_box_of_a_small_view(interpreted: Callable[..., None], height: int, width: int) -> None:
    """Among them empty and full ones; words cross rows, up to four of them where a row is one pixel."""
    rows, columns = (list(combinations_with_replacement(range(side + 1), 2)) for side in (height, width))
    sides = [(y0, x0, y1, x1) for (y0, y1), (x0, x1) in product(rows, columns)]
    n = len(sides)
    a, b = (torch.full((2, n, height, width, 3), level, dtype=torch.uint8) for level in (0, 255))
    out = _unwritten(2 * n, height, width, torch.float16)
    boxes = torch.tensor(sides, dtype=torch.int32)
    interpreted(mix_views, a, b, torch.ones(n), boxes, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), out)
    expected = np.zeros((n, height, width))
    for i, (y0, x0, y1, x1) in enumerate(sides):
        expected[i, y0:y1, x0:x1] = 1
    np.testing.assert_array_equal(out[n:].numpy(), np.repeat(expected[:, None], 3, axis=1))


def test_weights_and_boxes_at_their_ends(interpreted: Callable[..., None]) -> None:
    """λ = 1 and an empty box leave image a, λ = 0 and a full box image b, to the last bit."""
    a, b = _views(2, 4, 6, 9, seed=4), _views(2, 4, 6, 9, seed=5)
    lam = torch.tensor([1.0, 0.0, 1.0, 0.0])
    boxes = torch.tensor([[0, 0, 0, 0], [0, 0, 6, 9], [3, 0, 3, 9], [0, 0, 6, 9]], dtype=torch.int32)
    out, plain = _unwritten(8, 6, 9, torch.float32), _unwritten(8, 6, 9, torch.float32)
    interpreted(mix_views, a, b, lam, boxes, MEAN, STD, out)
    from_a = torch.tensor([True, False, True, False])[:, None, None, None]
    interpreted(
        normalise_views, torch.cat([torch.where(from_a, a[v], b[v]) for v in (0, 1)]), MEAN, STD, plain
    )
    assert torch.equal(out, plain)


def _placed(views: torch.Tensor, offset: int, gap: int) -> torch.Tensor:
    """The same views elsewhere: `offset` bytes behind an aligned address, `gap` bytes between images."""
    size = views[0].numel()
    memory = torch.full((offset + len(views) * (size + gap),), 77, dtype=torch.uint8, device=views.device)
    placed = memory[offset:].as_strided(views.shape, (size + gap, *views.stride()[1:]))
    return placed.copy_(views)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (4, 16)])
def test_each_of_the_four_views_lies_where_it_likes(
    interpreted: Callable[..., None], height: int, width: int
) -> None:
    """At odd addresses and with gaps of their own."""
    views = [_views(3, height, width, seed=seed) for seed in range(4)]
    a1, a2, b1, b2 = (_placed(view, 3 * k, 16 - 5 * k) for k, view in enumerate(views))
    assert len({view.stride(0) for view in (a1, a2, b1, b2)}) == 4
    lam, boxes = torch.tensor([0.3, 0.6, 0.8]), _random_boxes(3, height, width, 4)
    out = _unwritten(6, height, width, torch.float32)
    interpreted(mix_views, (a1, a2), (b1, b2), lam, boxes, MEAN, STD, out)
    _assert_near(out, _slow_mix(views[:2], views[2:], lam, boxes))


def test_views_of_both_streams_may_lie_in_one_tensor(interpreted: Callable[..., None]) -> None:
    """As a decoder leaves them: the source images of both streams; and a slice of a batch may be filled."""
    decoded = [_views(9, 10, 11, seed=seed) for seed in (6, 7)]
    a, b = [view[:3] for view in decoded], [view[4::2] for view in decoded]
    lam, boxes = torch.tensor([0.1, 0.5, 0.93]), _random_boxes(3, 10, 11, 8)
    whole = _unwritten(9, 10, 11, torch.float32)
    interpreted(mix_views, a, b, lam, boxes, MEAN, STD, whole[2:8])
    torch.testing.assert_close(whole[2:8], mix(a, b, lam, boxes, MEAN, STD), atol=2e-6, rtol=0)
    assert whole[:2].isnan().all() and whole[8:].isnan().all()  # nothing else is touched


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_normalise_every_level_of_every_channel(interpreted: Callable[..., None], dtype: torch.dtype) -> None:
    views = torch.arange(256, dtype=torch.uint8).repeat_interleave(3).reshape(4, 4, 16, 3)[::2]
    out = _unwritten(2, 4, 16, dtype)
    interpreted(normalise_views, views, MEAN, STD, out)
    expected = (views.numpy().astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    _assert_near(out, expected.transpose(0, 3, 1, 2))


def test_tensors_of_a_cpu_are_refused_in_one_sentence() -> None:
    views = _views(2, 3, 4, 5, seed=0)
    out = _unwritten(6, 4, 5, torch.float32)
    with pytest.raises(UserError, match=r"^a Triton kernel was given tensors on cpu: it needs an NVIDIA GPU"):
        mix_views(views, views, torch.ones(3), _random_boxes(3, 4, 5, 0), MEAN, STD, out)
    with pytest.raises(UserError, match=r"TRITON_INTERPRET=1"):
        normalise_views(views[0], MEAN, STD, out[:3])


FACTORS = {"scale": ("fp32",) * 3, "shift": ("fp32",) * 3}
VIEWS = ("a1", "b1", "a2", "b2")
ARGUMENTS = dict.fromkeys(VIEWS, "*u8") | {
    "strides": ("i32",) * 4,
    "lam": "*fp32",
    "cut_boxes": "*i32",
    "out": "*bf16",
    "n": "i32",
}
# What a launch on tensors of 224 x 224 pixels finds out; the number of pairs need not be a multiple of anything.
ALIGNED = {*ARGUMENTS, "views", "stride"} - {"n"}


def _accesses(ptx: str) -> tuple[set[int], set[int]]:
    """Widths in bits of the loads from and stores to global memory."""
    found = re.findall(r"\b(ld|st)\.global\S*?(?:\.v(\d))?\.[bu](\d+)\b", ptx)
    assert len(found) == ptx.count("ld.global") + ptx.count("st.global")
    loads, stores = (
        {int(vector or 1) * int(bits) for which, vector, bits in found if which == kind}
        for kind in ("ld", "st")
    )
    return loads, stores


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("dtype", "word", "load"), [("fp32", 4, 32), ("bf16", 8, 64), ("fp16", 8, 64)])
def test_loads_and_stores_are_wide(
    compiled: Callable[..., str], arch: int, dtype: str, word: int, load: int
) -> None:
    """A view's bytes come as 64-bit words where a sample out has 16 bits; every store has 128 bits.

    λ and the sides of the cut box are 32-bit loads.
    """
    size = {"HEIGHT": 224, "WIDTH": 224, "WORD": word, "WORDS": WORDS}
    types = ARGUMENTS | {"out": f"*{dtype}"} | FACTORS
    ptx = compiled(_mix_views, arch, types, size, ALIGNED, num_warps=WARPS)
    assert _accesses(ptx) == ({32, load}, {128})
    assert ".shared" not in ptx  # each thread stores what it loaded
    types = {"views": "*u8", "out": f"*{dtype}", "stride": "i32"} | FACTORS
    ptx = compiled(_normalise_views, arch, types, size, ALIGNED, num_warps=WARPS)
    assert _accesses(ptx) == ({load}, {128})


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_odd_sizes_compile(compiled: Callable[..., str], arch: int, dtype: str) -> None:
    size = {"HEIGHT": 7, "WIDTH": 2, "WORD": 4 if dtype == "fp32" else 8, "WORDS": WORDS}
    types = ARGUMENTS | {"out": f"*{dtype}"} | FACTORS
    for aligned in (ALIGNED - {"strides"}, ALIGNED - {"strides", *VIEWS}):
        assert "st.global" in compiled(_mix_views, arch, types, size, aligned, num_warps=WARPS)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("n", "height", "width"), [(3, 9, 13), (5, 1, 1), (2, 33, 2), (8, 224, 224)])
def test_a_gpu_mixes_like_the_reference(n: int, height: int, width: int, dtype: torch.dtype) -> None:
    decoded = [_views(2 * n, height, width, seed=seed).cuda() for seed in (0, 1)]
    a, b = [view[:n] for view in decoded], [view[n:] for view in decoded]
    lam = torch.linspace(0, 1, n).cuda()
    boxes = _random_boxes(n, height, width, 3).cuda()
    out = _unwritten(2 * n, height, width, dtype, "cuda")
    mix_views(a, b, lam, boxes, MEAN, STD, out)
    _assert_near(out, mix(a, b, lam, boxes, MEAN, STD).double().cpu().numpy())
    for offset, gap in (
        (1, 0),
        (16, 5),
        (8, 16),
    ):  # each is another kernel: what is aligned is found out at a launch
        out.fill_(np.nan)
        mix_views(
            [_placed(a[0], offset, 0), a[1]],
            [b[0], _placed(b[1], 32 - offset, gap)],
            lam,
            boxes,
            MEAN,
            STD,
            out,
        )
        _assert_near(out, mix(a, b, lam, boxes, MEAN, STD).double().cpu().numpy())
    normalise_views(a[1], MEAN, STD, out[:n])
    _assert_near(out[:n], normalise(a[1], MEAN, STD).double().cpu().numpy())


@pytest.mark.gpu
def test_a_gpu_rounds_to_the_nearest_bfloat16() -> None:
    views = _views(4, 64, 64, seed=0).cuda()
    exact, rounded = (_unwritten(4, 64, 64, dtype, "cuda") for dtype in (torch.float32, torch.bfloat16))
    normalise_views(views, MEAN, STD, exact)
    normalise_views(views, MEAN, STD, rounded)
    assert torch.equal(exact.bfloat16(), rounded)


@pytest.mark.gpu
def test_a_graph_replays_the_mix_with_new_draws() -> None:
    a, b = (_views(2, 6, 32, 32, seed=seed).cuda() for seed in (0, 1))
    lam, boxes = torch.zeros(6).cuda(), _random_boxes(6, 32, 32, 2).cuda()
    out = _unwritten(12, 32, 32, torch.float32, "cuda")
    mix_views(a, b, lam, boxes, MEAN, STD, out)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mix_views(a, b, lam, boxes, MEAN, STD, out)
    lam.copy_(torch.linspace(0, 1, 6))
    boxes.copy_(_random_boxes(6, 32, 32, 5))
    graph.replay()
    torch.testing.assert_close(out, mix(a, b, lam, boxes, MEAN, STD), atol=2e-6, rtol=0)


@pytest.mark.gpu
def test_a_gpu_mixes_at_more_than_half_of_its_copy_bandwidth() -> None:
    """A sanity check with room to spare; `tools/benchmark.py mix` measures. The buffers exceed an L2 cache."""
    n = 256
    a, b = (_views(2, n, 224, 224, seed=seed).cuda() for seed in (0, 1))
    lam, boxes = torch.rand(n).cuda(), torch.tensor([[20, 30, 180, 200]] * n, dtype=torch.int32).cuda()
    out = _unwritten(2 * n, 224, 224, torch.bfloat16, "cuda")
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def milliseconds(function: Callable[[], object]) -> float:
        times = []
        for _ in range(20):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(
                2_000_000
            )  # a millisecond, in which the host gets ahead: a launch takes it longer
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return float(np.median(times))

    copied = 2 * source.numel() / milliseconds(lambda: target.copy_(source))
    needed = a[0].numel() * 3 + out.numel() * 2  # MixUp reads both sources, CutMix one of them at each pixel
    mixed = needed / milliseconds(lambda: mix_views(a, b, lam, boxes, MEAN, STD, out))
    assert mixed > copied / 2
