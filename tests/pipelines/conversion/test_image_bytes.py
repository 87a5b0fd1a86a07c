"""What becomes of one image file, for every kind of file, against Pillow's and torchvision's decoders."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps

from pipelines.beton.encoded_image import EncodedImage
from pipelines.beton.format import JPEG_MODE
from pipelines.conversion.image_bytes import ImageSettings, encode_image
from pipelines.jpeg.markers import read_markers
from pipelines.strict_pillow import strict_pillow
from pipelines.user_error import UserError

AS_IS = ImageSettings()


def decoded(encoded: EncodedImage) -> np.ndarray:
    with Image.open(io.BytesIO(encoded.data)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (encoded.width, encoded.height))
        return np.asarray(image).astype(int)


def upright_rgb(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "P":
            upright = upright.convert("RGBA")
        return np.asarray(upright.convert("RGB")).astype(int)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_ordinary_jpegs_go_in_byte_for_byte(
    tmp_path: Path, make_photographs: Callable[..., list[Path]]
) -> None:
    for path in make_photographs(tmp_path, 20):
        encoded = encode_image(path, ImageSettings(max_size=200, quality=10))
        assert encoded.data == path.read_bytes()
        assert (encoded.mode, encoded.copied) == (JPEG_MODE, True)
        data = torch.frombuffer(bytearray(encoded.data), dtype=torch.uint8)
        seen = torchvision.io.decode_jpeg(data).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(seen, decoded(encoded))


KINDS: dict[str, tuple[str, Callable[[Image.Image], Image.Image], dict[str, Any]]] = {
    "progressive": ("jpg", lambda p: p, {"progressive": True, "quality": 95}),
    "grayscale": ("jpg", lambda p: p.convert("L"), {}),
    "CMYK": ("jpg", lambda p: p.convert("CMYK"), {}),
    "RGB JPEG": ("jpg", lambda p: p, {"keep_rgb": True}),
    "PNG": ("png", lambda p: p, {}),
    "RGBA": ("png", lambda p: p.convert("RGBA"), {}),
    "gray and alpha": ("png", lambda p: p.convert("LA"), {}),
    "palette": ("png", lambda p: p.convert("P"), {}),
    "palette with a transparent colour": ("png", lambda p: p.convert("P"), {"transparency": 3}),
    "palette with transparencies": ("png", lambda p: p.convert("P"), {"transparency": bytes(range(200))}),
    "one bit": ("png", lambda p: p.convert("1"), {}),
    "WebP": ("webp", lambda p: p, {"lossless": True}),
    "GIF": ("gif", lambda p: p, {}),
    "BMP": ("bmp", lambda p: p, {}),
    "TIFF": ("tiff", lambda p: p, {"compression": "tiff_lzw"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_encoded_again(tmp_path: Path, photo: Image.Image, kind: str) -> None:
    suffix, make, options = KINDS[kind]
    path = tmp_path / f"image.{suffix}"
    make(photo).save(path, **options)
    encoded = encode_image(path, ImageSettings(quality=95))
    assert not encoded.copied
    assert read_markers(encoded.data).universal
    wanted = upright_rgb(path)
    dithered = kind == "one bit" or "palette" in kind or kind == "GIF"  # noise that a JPEG smooths away
    assert np.abs(decoded(encoded) - wanted).mean() < (20 if dithered else 3.5)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_turned_upright(tmp_path: Path, photo: Image.Image, suffix: str, orientation: int) -> None:
    path = tmp_path / f"image.{suffix}"
    photo.save(path, exif=turned(orientation))
    encoded = encode_image(path, ImageSettings(quality=95))
    assert not encoded.copied
    assert read_markers(encoded.data).orientation == 1
    assert (encoded.height > encoded.width) == ((photo.height > photo.width) ^ (orientation >= 5))
    assert np.abs(decoded(encoded) - upright_rgb(path)).mean() < 3.5


def test_damaged_exif_is_no_reason_to_turn_or_refuse(tmp_path: Path, photo: Image.Image) -> None:
    for suffix in ("jpg", "png"):
        photo.save(tmp_path / f"x.{suffix}", exif=b"Exif\0\0II*\0\xff\xff\0\0nonsense")
        encoded = encode_image(tmp_path / f"x.{suffix}", AS_IS)
        assert (encoded.width, encoded.height) == photo.size
        assert encoded.copied == (suffix == "jpg")


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 128), (64, 1)).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    seen = decoded(encode_image(tmp_path / "ramp.png", ImageSettings(quality=100)))
    assert np.abs(seen - ramp[..., None] / 257).max() < 3


@pytest.mark.parametrize(
    ("size", "max_size", "wanted"),
    [
        ((120, 90), 60, (60, 45)),
        ((90, 120), 60, (45, 60)),
        ((121, 90), 120, (120, 89)),
        ((100, 1), 10, (10, 1)),
    ],
)
def test_shrunk_to_max_size(
    tmp_path: Path, photo: Image.Image, size: tuple[int, int], max_size: int, wanted: tuple[int, int]
) -> None:
    source = photo.resize(size)
    source.save(tmp_path / "x.jpg", quality=100, subsampling=0)
    encoded = encode_image(tmp_path / "x.jpg", ImageSettings(max_size=max_size, quality=95))
    assert ((encoded.width, encoded.height), encoded.copied) == (wanted, False)
    reference = np.asarray(source.resize(wanted, Image.Resampling.BOX)).astype(int)
    assert np.abs(decoded(encoded) - reference).mean() < 12


def test_an_image_of_max_size_is_copied_and_none_is_enlarged(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "x.jpg")
    photo.save(tmp_path / "x.png")
    longest = max(photo.size)
    assert encode_image(tmp_path / "x.jpg", ImageSettings(max_size=longest)).copied
    assert not encode_image(tmp_path / "x.jpg", ImageSettings(max_size=longest - 1)).copied
    encoded = encode_image(tmp_path / "x.png", ImageSettings(max_size=longest + 50))
    assert (encoded.width, encoded.height) == photo.size


def test_quality_and_comment(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "x.jpg", progressive=True, comment=b"a comment of the source")
    small, large = (encode_image(tmp_path / "x.jpg", ImageSettings(quality=q)).data for q in (20, 95))
    assert len(small) < len(large) / 2
    assert b"comment" not in large


def jpeg_of_size(photo: Image.Image, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    frame = data.index(b"\xff\xc0") + 5
    data[frame : frame + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


BAD: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "no end marker": (lambda p: saved(p, "JPEG")[:-2], "truncated JPEG: it breaks off before its end marker"),
    "half a JPEG": (lambda p: saved(p, "JPEG")[:3000], "truncated JPEG"),
    "half a progressive": (lambda p: saved(p, "JPEG", progressive=True)[:-9], "truncated JPEG"),
    "half a PNG": (
        lambda p: saved(p, "PNG")[:3000],
        r"cannot decode the image \(\w+: .*\); replace the file",
    ),
    "half a WebP": (lambda p: saved(p, "WEBP")[:300], r"cannot decode the image"),
    "garbage": (lambda p: bytes(range(256)), r"cannot decode the image \(UnidentifiedImageError"),
    "an error page": (lambda p: b"<html>404</html>", r"cannot decode the image"),
    "nothing": (lambda p: b"", r"cannot decode the image"),
    "start of JPEG": (
        lambda p: b"\xff\xd8\xff" + bytes(99),
        r"truncated JPEG: it breaks off inside a segment",
    ),
    "float": (lambda p: saved(p.convert("F"), "TIFF"), "floating-point pixels have no agreed range"),
    "huge JPEG": (
        lambda p: jpeg_of_size(p, 60_000, 60_000),
        "more than 89,478,485 pixels; make the image smaller",
    ),
    "large PNG": (lambda p: saved(Image.new("1", (10_000, 9_000)), "PNG"), "more than 89,478,485 pixels"),
    "huge PNG": (lambda p: saved(Image.new("1", (14_000, 14_000)), "PNG"), "more than 89,478,485 pixels"),
    "no height": (lambda p: jpeg_of_size(p, 0, 97), "cannot decode the image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_image(tmp_path: Path, photo: Image.Image, kind: str) -> None:
    make, message = BAD[kind]
    path = tmp_path / "bad one.jpg"
    path.write_bytes(make(photo))
    with pytest.raises(UserError, match=rf"bad one.jpg: .*{message}"):
        encode_image(path, AS_IS)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.jpg: cannot read the image: No such file"):
        encode_image(tmp_path / "none.jpg", AS_IS)
    with pytest.raises(UserError, match=r"cannot read the image: Is a directory"):
        encode_image(tmp_path, AS_IS)


def test_huge_image_is_an_error_not_a_warning_in_the_converter(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "x.png")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with strict_pillow(), pytest.raises(UserError, match="more than 89,478,485 pixels"):
            encode_image(tmp_path / "x.png", AS_IS)
    assert not seen


def test_too_long_for_jpeg(tmp_path: Path) -> None:
    Image.new("L", (66_000, 2)).save(tmp_path / "x.png")
    with pytest.raises(
        UserError, match=r"x.png: 66000 x 2 pixels cannot be written as JPEG; give --max-size"
    ):
        encode_image(tmp_path / "x.png", AS_IS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_size": 0}, "--max-size 0 is not a size in pixels"),
        ({"quality": 0}, "--quality 0 is not a JPEG quality; give 1 to 100"),
        ({"quality": 101}, "--quality 101 is not a JPEG quality"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageSettings(**settings)


@pytest.mark.parametrize(
    ("short_side", "max_size", "wanted"),
    [
        (60, None, (80, 60)),
        (60, 70, (70, 52)),
        (90, None, (120, 90)),
        (60, 100, (80, 60)),
        (91, 121, (120, 90)),
    ],
)
def test_shrunk_by_the_shorter_side(
    tmp_path: Path, photo: Image.Image, short_side: int, max_size: int | None, wanted: tuple[int, int]
) -> None:
    for size, expected in ((120, 90), wanted), ((90, 120), wanted[::-1]):
        photo.resize(size).save(tmp_path / "x.jpg")
        encoded = encode_image(tmp_path / "x.jpg", ImageSettings(short_side=short_side, max_size=max_size))
        assert (encoded.width, encoded.height) == expected
        assert encoded.copied == (wanted == (120, 90))
    with pytest.raises(UserError, match="--short-side 0 is not a size in pixels"):
        ImageSettings(short_side=0)
    with pytest.raises(UserError, match="--check twice is no check"):
        ImageSettings(check="twice")
