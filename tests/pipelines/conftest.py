"""Two small sets as open betons, and threads: what the tests of the loaders have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.reader import BetonFile, open_beton
from pipelines.beton.writer import write_beton
from pipelines.conversion.convert import convert_images
from pipelines.conversion.image_bytes import ImageSettings
from pipelines.conversion.settings import ConversionSettings
from pipelines.sources.digits import digits_split
from pipelines.sources.image_list import from_rows
from pipelines.thread_pool import ThreadPool

PHOTOGRAPHS_OF_CLASS = (9, 6, 4, 3, 1)


@pytest.fixture(scope="session")
def photograph_files(
    make_photographs: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """23 JPEG files with sides of 48 to 200 pixels."""
    return make_photographs(tmp_path_factory.mktemp("photographs"), sum(PHOTOGRAPHS_OF_CLASS), seed=3)


@pytest.fixture(scope="session")
def photograph_labels() -> np.ndarray:
    """(23,) int64, in no order: 9, 6, 4, 3 and 1 images of classes 0 to 4."""
    labels = np.repeat(np.arange(len(PHOTOGRAPHS_OF_CLASS)), PHOTOGRAPHS_OF_CLASS)
    return np.random.default_rng(11).permutation(labels)


@pytest.fixture(scope="session")
def photographs(
    photograph_files: list[Path], photograph_labels: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> BetonFile:
    """The beton of `photograph_files`; image i holds the bytes of file i."""
    names = [path.name for path in photograph_files]
    images = from_rows(names, photograph_labels, list("ABCDE"), kind="list", name="photographs")
    out = tmp_path_factory.mktemp("betons") / "photographs.beton"
    done = convert_images(
        images, photograph_files[0].parent, out, ConversionSettings(image=ImageSettings()), workers=1
    )
    assert done.copied == len(names)
    return open_beton(out)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> BetonFile:
    """The training set of Digits-LT, 32 x 32 pixels, raw."""
    images, encoded = digits_split("train", imbalance_factor=50, seed=0)
    out = tmp_path_factory.mktemp("betons") / "digits.beton"
    write_beton(out, images, encoded, settings={})
    return open_beton(out)


@pytest.fixture(scope="session")
def break_off() -> Callable[[BetonFile, int, Path], BetonFile]:
    """A maker of damaged betons: `break_off(beton, index, out)` zeros the second half of one image's bytes.

    It writes a copy with its manifest to `out` and opens it.
    """

    def write(beton: BetonFile, index: int, out: Path) -> BetonFile:
        content = np.fromfile(beton.path, np.uint8)
        start, size = int(beton.offsets[index]), int(beton.sizes[index])
        content[start + size // 2 : start + size] = 0
        content.tofile(out)
        manifest = beton.path.with_name(beton.path.name + ".json")
        out.with_name(out.name + ".json").write_bytes(manifest.read_bytes())
        return open_beton(out)

    return write


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPool]:
    with ThreadPool(2) as threads:
        yield threads


@pytest.fixture(scope="module")
def photo(
    tmp_path_factory: pytest.TempPathFactory, make_photographs: Callable[..., list[Path]]
) -> Image.Image:
    """One real photograph, RGB, sides of 97 to 133 pixels."""
    [path] = make_photographs(tmp_path_factory.mktemp("photo"), 1, seed=2, shortest=97, longest=133)
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compiles a Triton kernel for a GPU that need not be there, and returns its PTX.

    `compiled(kernel, arch, types, constants, aligned)`: `types` has Triton's name of the type of each argument
    ("*u8", a tuple of names for a tuple), `aligned` the names of those that are multiples of 16 (a tuple as a
    whole), as a launch on a GPU finds out by itself.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    def compile_kernel(
        kernel: triton.JITFunction,
        arch: int,
        types: dict[str, object],
        constants: dict[str, object],
        aligned: set[str],
        **options: object,
    ) -> str:
        places = []
        for place, (name, type_) in enumerate(types.items()):
            if name in aligned:
                inner = range(len(type_)) if isinstance(type_, tuple) else [None]
                places += [(place,) if k is None else (place, k) for k in inner]
        signature = types | dict.fromkeys(constants, "constexpr")
        assert list(signature) == kernel.arg_names
        hints = {place: [["tt.divisibility", 16]] for place in places}
        source = triton.compiler.ASTSource(kernel, signature, constants, hints)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
            return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options).asm["ptx"]

    return compile_kernel
