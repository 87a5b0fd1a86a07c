"""DALI's CPU operators against Pillow: pixels, order, errors and lifetimes. The GPU's part needs `-m gpu`."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from numpy.typing import NDArray
from PIL import Image

from pipelines.dali_graph import DaliSettings, DaliShape
from pipelines.decode_dali import DaliDecoder
from pipelines.decode_reference import decode
from pipelines.eval_boxes import resize_center_crop_boxes
from pipelines.user_error import UserError

Array = NDArray[np.uint8]
Boxes = NDArray[np.float64]
CPU = torch.device("cpu")


def _decoder(size: int, *, views: int = 3, depth: int = 2, device: torch.device = CPU) -> DaliDecoder:
    shape = DaliShape(max_batch=12, views=views, size=size, depth=depth)
    return DaliDecoder(shape, DaliSettings(), threads=2, device=device)


@pytest.fixture(scope="module")
def decoder() -> Iterator[DaliDecoder]:
    yield _decoder(45)


@pytest.fixture(scope="module")
def samples(
    make_photographs: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Array]:
    paths = make_photographs(tmp_path_factory.mktemp("photographs"), 11, longest=230)
    return [np.memmap(path, np.uint8, "r") for path in paths]


def _image(sample: Array) -> Image.Image:
    return Image.open(io.BytesIO(sample.tobytes())).convert("RGB")


def _sizes(samples: list[Array]) -> NDArray[np.int64]:
    return np.array([_image(sample).size[::-1] for sample in samples])


def _random_boxes(samples: list[Array], views: int, seed: int) -> tuple[Boxes, NDArray[np.bool_]]:
    """Boxes of every size, from one pixel to the whole image, of whole pixels; and flips."""
    rng = np.random.default_rng(seed)
    boxes = np.empty((len(samples), views, 4))
    for i, (height, width) in enumerate(_sizes(samples).tolist()):
        for v in range(views):
            h, w = (round(side ** rng.uniform(0, 1)) for side in (height, width))
            y0, x0 = rng.integers(height - h + 1), rng.integers(width - w + 1)
            boxes[i, v] = y0, x0, y0 + h, x0 + w
    boxes[0, 0] = (0, 0, *_sizes(samples)[0])
    boxes[1, 0] = (5, 6, 6, 7)
    return boxes, rng.random((len(samples), views)) < 0.5


def _decode(
    decoder: DaliDecoder,
    samples: list[Array],
    boxes: Boxes,
    flips: NDArray[np.bool_],
    *,
    crop_first: bool = True,
) -> Array:
    ticket = decoder.schedule(samples, boxes, flips, _sizes(samples), crop_first=crop_first)
    return torch.stack(decoder.take(ticket)).cpu().numpy()


def _difference(a: Array, b: Array) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("size", [1, 13, 64, 224])
def test_views_are_within_one_level_of_the_reference(samples: list[Array], size: int) -> None:
    boxes, flips = _random_boxes(samples, 3, seed=size)
    views = _decode(_decoder(size), samples, boxes, flips)
    assert views.shape == (3, len(samples), size, size, 3) and views.dtype == np.uint8
    assert _difference(views, decode(samples, boxes, flips, size)) <= 1


def test_a_box_shifted_by_one_pixel_is_not_within_one_level(
    decoder: DaliDecoder, samples: list[Array]
) -> None:
    for shift in ((1, 0, 1, 0), (0, 1, 0, 1), (0, 0, 0, 1), (1, 0, 0, 0)):
        boxes = np.tile([4.0, 4, 40, 44], (len(samples), 1, 1))
        no_flips = np.zeros((len(samples), 1), bool)
        shifted = _decode(decoder, samples, boxes + shift, no_flips)
        expected = decode(samples, boxes, no_flips, 45)
        assert all(_difference(shifted[0, i], expected[0, i]) > 1 for i in range(len(samples)))


def test_a_mirrored_view_is_the_mirror_image(decoder: DaliDecoder, samples: list[Array]) -> None:
    boxes = np.repeat(_random_boxes(samples, 1, seed=5)[0], 2, axis=1)
    plain, mirrored = _decode(decoder, samples, boxes, np.tile([False, True], (len(samples), 1)))
    assert _difference(mirrored, plain[:, :, ::-1]) <= 1
    assert (mirrored != plain[:, :, ::-1]).mean() < 0.02  # a sum in the opposite order rounds otherwise


def test_jpegs_decode_to_pillows_pixels(samples: list[Array]) -> None:
    decoder = _decoder(48, views=1)
    boxes = np.tile([0.0, 0, 48, 48], (len(samples), 1, 1))  # which is not resized
    views = _decode(decoder, samples, boxes, np.zeros((len(samples), 1), bool))
    expected = np.stack([np.asarray(_image(sample))[:48, :48] for sample in samples])
    np.testing.assert_array_equal(views[0], expected)


def test_other_kinds_of_jpeg_become_rgb_and_stay_as_they_lie(
    decoder: DaliDecoder, samples: list[Array]
) -> None:
    image = _image(samples[2])
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation
    files = []
    for mode, settings in (
        ("L", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": "4:4:4", "quality": 97}),
        ("RGB", {"subsampling": "4:2:2", "optimize": True}),
        ("RGB", {"restart_marker_rows": 1}),
        ("RGB", {"exif": turned}),
    ):
        file = io.BytesIO()
        image.convert(mode).save(file, "JPEG", **settings)
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    boxes, flips = _random_boxes(files, 3, seed=3)
    assert _difference(_decode(decoder, files, boxes, flips), decode(files, boxes, flips, 45)) <= 1


def test_fractional_boxes_see_their_surroundings(decoder: DaliDecoder, samples: list[Array]) -> None:
    boxes, flips = _random_boxes(samples, 2, seed=9)
    boxes[:, 1] = boxes[:, 0] * 0.75 + 0.125
    views = _decode(decoder, samples, boxes, flips, crop_first=False)
    assert _difference(views, decode(samples, boxes, flips, 45, crop_first=False)) <= 1
    assert _difference(views[:1], decode(samples, boxes[:, :1], flips[:, :1], 45)) > 1


@pytest.mark.parametrize("resize", [45, 51])
def test_evaluation_is_torchvisions(decoder: DaliDecoder, samples: list[Array], resize: int) -> None:
    sizes = _sizes(samples)
    boxes = resize_center_crop_boxes(sizes[:, 0], sizes[:, 1], resize, 45)[:, None]
    views = _decode(decoder, samples, boxes, np.zeros((len(samples), 1), bool), crop_first=False)
    expected = [np.asarray(TF.center_crop(TF.resize(_image(sample), resize), [45, 45])) for sample in samples]
    assert _difference(views[0], np.stack(expected)) <= 1


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_batches_come_in_order_whatever_is_on_its_way(samples: list[Array], depth: int) -> None:
    decoder = _decoder(24, views=2, depth=depth)
    draws = [_random_boxes(samples[: 3 + k], 2, seed=k) for k in range(8)]
    tickets = [
        decoder.schedule(samples[: 3 + k], boxes, flips, _sizes(samples[: 3 + k]), crop_first=True)
        for k, (boxes, flips) in enumerate(draws)
    ]
    for k in (4, 0, 1, 2, 3, 7, 5, 6):  # two users of one decoder take theirs as they come
        boxes, flips = draws[k]
        views = torch.stack(decoder.take(tickets[k])).numpy()
        assert _difference(views, decode(samples[: 3 + k], boxes, flips, 24)) <= 1


def test_views_keep_their_pixels_while_dali_goes_on(samples: list[Array]) -> None:
    """A buffer that DALI took back too early would be overwritten, and one it never hands out again would grow."""
    decoder = _decoder(24, views=2, depth=3)
    boxes, flips = _random_boxes(samples, 2, seed=1)
    other_boxes, other_flips = _random_boxes(samples, 2, seed=2)
    expected = _decode(decoder, samples, boxes, flips)
    addresses = set()
    for _ in range(12):
        held = decoder.take(decoder.schedule(samples, boxes, flips, _sizes(samples), crop_first=True))
        for _ in range(5):
            ticket = decoder.schedule(samples, other_boxes, other_flips, _sizes(samples), crop_first=True)
            other = decoder.take(ticket)
            for view in other:
                addresses.add(view.data_ptr())
                view.fill_(77)
            decoder.release(other)
        np.testing.assert_array_equal(torch.stack(held), expected)
        decoder.release(held)
    assert len(addresses) < 100  # of 120: memory comes round again, so the comparison above could fail


@pytest.mark.gpu
def test_dali_waits_for_readers_that_are_late(samples: list[Array]) -> None:
    """The memory is released while PyTorch's stream is far from the kernels that read it, and DALI goes on."""
    shape = DaliShape(max_batch=12, views=2, size=64, depth=3)
    # all on one engine: which decoder an image is given to changes its pixels
    settings = DaliSettings(hardware_share=0)
    decoder = DaliDecoder(shape, settings, threads=2, device=torch.device("cuda", 0))
    boxes, flips = _random_boxes(samples, 2, seed=1)
    other_boxes, other_flips = _random_boxes(samples, 2, seed=2)
    expected = _decode(decoder, samples, boxes, flips)
    addresses, late = set(), []
    for _ in range(12):
        views = decoder.take(decoder.schedule(samples, boxes, flips, _sizes(samples), crop_first=True))
        torch.cuda._sleep(50_000_000)
        late.append(torch.stack(list(views)))
        decoder.release(views)
        del views
        for _ in range(5):
            ticket = decoder.schedule(samples, other_boxes, other_flips, _sizes(samples), crop_first=True)
            other = decoder.take(ticket)
            addresses.update(view.data_ptr() for view in other)
            decoder.release(other)
            del other
        torch.cuda.synchronize()
    assert len(addresses) < 100  # of 120: memory comes round again
    assert all(address % 16 == 0 for address in addresses)  # so that the mix kernel's loads are wide
    for copy in late:
        np.testing.assert_array_equal(copy.cpu().numpy(), expected)


def test_an_impossible_box_is_refused(decoder: DaliDecoder, samples: list[Array]) -> None:
    sizes = _sizes(samples)
    for box in ((0, 0, 40, 10_000), (0, 0, 20.5, 20), (-1, 0, 5, 5), (4, 4, 4, 9)):
        boxes = np.tile([0.0, 0, 40, 40], (len(samples), 1, 1))
        boxes[7, 0] = box
        with pytest.raises(ValueError, match=r"sample 7: box"):
            decoder.schedule(samples, boxes, np.zeros((len(samples), 1), bool), sizes, crop_first=True)


@pytest.mark.parametrize("bad", [b"", b"no JPEG at all", None])
def test_a_bad_jpeg_fails_its_own_batch(
    decoder: DaliDecoder, samples: list[Array], bad: bytes | None
) -> None:
    broken = list(samples)
    broken[6] = samples[6][:-20] if bad is None else np.frombuffer(bad, np.uint8)
    boxes = np.tile([0.0, 0, 40, 40], (len(samples), 1, 1))
    flips, sizes = np.zeros((len(samples), 1), bool), _sizes(samples)
    tickets = [
        decoder.schedule(each, boxes, flips, sizes, crop_first=True) for each in (samples, broken, samples)
    ]
    expected = decode(samples, boxes, flips, 45)
    assert _difference(torch.stack(decoder.take(tickets[0])).numpy(), expected) <= 1
    with pytest.raises(RuntimeError, match="decode"):
        decoder.take(tickets[1])
    decoder.discard(tickets[1])
    assert _difference(torch.stack(decoder.take(tickets[2])).numpy(), expected) <= 1


def test_discarded_batches_leave_nothing_behind(samples: list[Array]) -> None:
    decoder = _decoder(24, views=2, depth=3)
    boxes, flips = _random_boxes(samples, 2, seed=4)
    threads = set(threading.enumerate())
    for _ in range(100):
        tickets = [
            decoder.schedule(samples, boxes, flips, _sizes(samples), crop_first=True) for _ in range(2)
        ]
        for ticket in tickets:
            decoder.discard(ticket)
    assert not decoder.scheduled and set(threading.enumerate()) <= threads


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": -1}, r"dali\.threads is -1"),
        ({"hardware_share": 1.5}, r"dali\.hardware_share is 1\.5"),
        ({"huffman_threshold": -2}, r"dali\.huffman_threshold is -2"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DaliSettings(**settings)  # type: ignore[arg-type]


def test_a_missing_driver_is_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine refuses to be without a GPU")
    with pytest.raises(UserError, match=r"DALI cannot decode on cuda:0 \(.*data\.decode to cpu"):
        _decoder(24, device=torch.device("cuda", 0))
