"""Photographs of ImageNet's size, the same for the same seed, as files and as a beton."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.photographs import Photographs, long_tailed_labels, made_photographs, photographs_of
from pipelines.beton.reader import open_beton
from pipelines.beton.writer import write_beton
from pipelines.sources.digits import digits_split
from pipelines.user_error import UserError


def test_files_and_beton_hold_the_same_jpegs(few: Photographs) -> None:
    assert len(few.files) == few.beton.num_images == 24
    for i, path in enumerate(few.files):
        assert path.read_bytes() == few.beton.image_bytes(i).tobytes()
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.size == (few.beton.widths[i], few.beton.heights[i])
            image.load()


def test_they_are_as_large_as_imagenet_s(few: Photographs) -> None:
    rows = {row.metric: row for row in few.rows()}
    sizes = np.array([path.stat().st_size for path in few.files]) / 1000
    assert rows["mean_jpeg_kilobytes"].median == pytest.approx(sizes.mean())
    assert (rows["jpeg_kilobytes"].min, rows["jpeg_kilobytes"].max) == (sizes.min(), sizes.max())
    assert 95 < sizes.mean() < 125
    assert rows["megapixels"].median == pytest.approx(0.1875)


def test_they_are_photographs_of_different_parts(few: Photographs) -> None:
    photos = [photo.reshape(-1, 3).mean(0) for photo in load_sample_images().images]
    means = np.array(
        [np.asarray(Image.open(io.BytesIO(path.read_bytes()))).reshape(-1, 3).mean(0) for path in few.files]
    )
    assert len(np.unique(means.round(3), axis=0)) == 24
    for photo in photos:  # crops of 60 % or more keep about the photo's colour
        assert (np.abs(means - photo).max(1) < 30).sum() >= 5


def test_the_same_seed_makes_the_same_files_and_the_cache_keeps_them(
    few: Photographs, cache: Path, tmp_path: Path
) -> None:
    again = made_photographs(24, cache=tmp_path)
    other = made_photographs(24, seed=1, cache=tmp_path)
    assert again.beton.content.tobytes() == few.beton.content.tobytes()
    assert other.beton.content.tobytes() != few.beton.content.tobytes()
    before = few.files[0].stat().st_mtime_ns
    made_photographs(24, cache=cache)
    assert few.files[0].stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photographs-1-24-0", "photographs-1-24-1"]


def test_classes_have_a_long_tail() -> None:
    counts = np.bincount(long_tailed_labels(1000, np.random.default_rng(0)))
    assert counts.sum() == 1000 and len(counts) == 20
    assert (np.diff(counts) <= 0).all()
    assert 15 < counts[0] / counts[-1] < 25
    assert np.bincount(long_tailed_labels(3, np.random.default_rng(0))).tolist() == [1, 1, 1]


@pytest.mark.parametrize("count", range(1, 120))
def test_few_photographs_have_every_class_too(count: int) -> None:
    counts = np.bincount(long_tailed_labels(count, np.random.default_rng(0)))
    assert counts.sum() == count and len(counts) == min(20, count)
    assert counts.min() >= 1 and (np.diff(counts) <= 0).all()


def test_a_user_s_beton_gives_images_spread_over_it(few: Photographs, tmp_path: Path) -> None:
    own = photographs_of(few.beton, 5, tmp_path)
    chosen = [0, 6, 12, 17, 23]
    for i, path in zip(chosen, own.files, strict=True):
        assert path.read_bytes() == few.beton.image_bytes(i).tobytes()
    for a in range(5):
        for b in range(5):
            same = few.labels[chosen[a]] == few.labels[chosen[b]]
            assert (own.labels[a] == own.labels[b]) == same


def test_a_beton_that_is_too_small_or_raw_is_refused(few: Photographs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 24 images; give --images 24 or fewer"):
        photographs_of(few.beton, 25, tmp_path)
    images, encoded = digits_split("test", imbalance_factor=50, seed=0)
    write_beton(tmp_path / "digits.beton", images, encoded, settings={})
    with pytest.raises(UserError, match="raw pixels"):
        photographs_of(open_beton(tmp_path / "digits.beton"), 3, tmp_path)
