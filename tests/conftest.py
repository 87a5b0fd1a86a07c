"""Fixtures of several test files, hypothesis's settings, and the rule on skipped tests in continuous integration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch.multiprocessing  # tensors go to another process as shared memory, so what it writes is seen here
from PIL import Image
from sklearn.datasets import load_sample_images

hypothesis.settings.register_profile(
    "project",
    derandomize=True,  # a failure is that of a change, and everybody's; --hypothesis-profile=default tries others
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile(
    "project"
)  # before the tests are imported: no machine is too slow for an example

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Ctrl-C reaches this process and those that tests start and interrupt.

    A shell without job control has what it runs in the background ignore it, and all children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real list files and class counts, which the project does not ship."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} (real list files and class counts) is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def make_photographs() -> Callable[..., list[Path]]:
    """A maker of real photographs: `make_photographs(folder, count, seed=0, shortest=48, longest=200)`.

    It writes `count` baseline JPEG files, random crops of scikit-learn's two sample photos with sides between
    `shortest` and `longest` pixels (height and width drawn apart) and qualities between 60 and 95, as
    `00000.jpg`, `00001.jpg` and so on; it makes the folder and returns the paths in order.
    """
    photos = load_sample_images().images

    def make(
        folder: Path, count: int, *, seed: int = 0, shortest: int = 48, longest: int = 200
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, count])
        paths = [folder / f"{i:05d}.jpg" for i in range(count)]
        for path in paths:
            photo = photos[rng.integers(len(photos))]
            height, width = rng.integers(shortest, longest + 1, size=2)
            y0 = rng.integers(photo.shape[0] - height + 1)
            x0 = rng.integers(photo.shape[1] - width + 1)
            crop = Image.fromarray(np.ascontiguousarray(photo[y0 : y0 + height, x0 : x0 + width]))
            crop.save(path, quality=int(rng.integers(60, 96)))
        return paths

    return make


def fail_skip_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skipped `report` into a failed one where CI=true: a green run there means that everything ran.

    Only a reason that starts with "this machine refuses" (a limit of the machine's, which no installation can
    lift) stays a skip; so does a test that is expected to fail.
    """
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith("this machine refuses"):
        report.outcome = "failed"
        report.longrepr = f"CI=true allows no skipped test. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """See fail_skip_in_ci."""
    report = yield
    fail_skip_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """See fail_skip_in_ci; a module skips as a whole while it is collected."""
    report = yield
    fail_skip_in_ci(report)
    return report


READ_WITH_FFCV = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption

path, os_cache, out = sys.argv[1], sys.argv[2] == "True", sys.argv[3]
loader = Loader(
    path,
    batch_size=8,
    num_workers=1,
    os_cache=os_cache,
    order=OrderOption.SEQUENTIAL,
    drop_last=False,
    pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
)
batches = [(images.copy(), labels.copy()) for images, labels in loader]
images, labels = (np.concatenate(parts) for parts in zip(*batches))
np.savez(out, images=images, labels=labels[:, 0])
"""


@pytest.fixture
def read_with_ffcv(tmp_path: Path) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Stock FFCV's Loader: `read_with_ffcv(path, os_cache=True)` gives (n, h, w, 3) images and (n,) labels.

    In a process of its own: numba complains, in whatever test runs then, when a Loader's functions are
    collected.
    """

    def read(path: Path, *, os_cache: bool = True) -> tuple[np.ndarray, np.ndarray]:
        out = tmp_path / "read_with_ffcv.npz"
        command = [sys.executable, "-c", READ_WITH_FFCV, path, str(os_cache), out]
        subprocess.run(command, check=True)
        with np.load(out) as read:
            images, labels = read["images"], read["labels"]
        out.unlink()
        return images, labels

    return read


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., None]]:
    """Runs a function of a module with Triton kernels on CPU tensors: `interpreted(mix_views, views_a, ...)`.

    In a process of its own, for Triton must know before it is imported that it is to interpret.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        ProcessPoolExecutor(1, mp_context=torch.multiprocessing.get_context("spawn")) as process,
    ):
        patch.setenv("TRITON_INTERPRET", "1")
        process.submit(int).result()
        patch.undo()
        yield lambda function, *arguments: process.submit(function, *arguments).result()
