from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from types import FrameType

import pytest

from pipelines.run_ahead import Pending, run_ahead
from pipelines.thread_pool import ThreadPool


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    with ThreadPool(2) as threads:
        yield threads


@pytest.mark.parametrize("depth", [0, 1, 3, 50])
def test_values_come_in_order_and_no_further_ahead_than_depth(pool: ThreadPool, depth: int) -> None:
    started: list[int] = []

    def start(item: int) -> Pending[int]:
        started.append(item)
        delay = 0.003 * ((7 * item) % 4)  # later items end before earlier ones
        return Pending([pool.submit(time.sleep, delay) for _ in range(2)], lambda: item * item)

    seen = []
    for value in run_ahead(start, range(12), depth):
        seen.append(value)
        assert started == list(range(min(12, len(seen) + depth)))
    assert seen == [item * item for item in range(12)]


def test_nothing_starts_before_the_first_value_is_asked_for() -> None:
    def start(item: int) -> Pending[int]:
        pytest.fail("nobody has asked")

    run_ahead(start, range(3), 2)
    assert list(run_ahead(start, [], 2)) == []


def test_a_value_is_made_after_all_its_tasks(pool: ThreadPool) -> None:
    def start(item: int) -> Pending[list[int]]:
        written: list[int] = []

        def write(k: int) -> None:
            time.sleep(0.002 * (4 - k))
            written.append(k)

        return Pending([pool.submit(write, k) for k in range(4)], lambda: sorted(written))

    assert list(run_ahead(start, range(3), 1)) == [[0, 1, 2, 3]] * 3


def test_the_first_error_surfaces_when_no_task_of_the_item_runs_any_more(pool: ThreadPool) -> None:
    ended: list[tuple[int, int]] = []

    def start(item: int) -> Pending[int]:
        def work(k: int) -> None:
            time.sleep(0.03 if k == 3 else 0.002 * (3 - k))
            ended.append((item, k))
            if item == 1 and k in (1, 2):
                raise RuntimeError(f"task {k} of item {item}")

        return Pending([pool.submit(work, k) for k in range(4)], lambda: item)

    seen = []
    with pytest.raises(RuntimeError, match="task 1 of item 1"):
        for value in run_ahead(start, range(9), 2):
            seen.append(value)
    after = len(ended)
    assert seen == [0]
    assert {(1, k) for k in range(4)} <= set(ended)
    time.sleep(0.05)
    assert len(ended) == after


def test_a_result_raises_when_none_of_its_tasks_writes_any_more(pool: ThreadPool) -> None:
    written: list[int] = []

    def fail() -> None:
        raise RuntimeError("at once")

    def write() -> None:
        time.sleep(0.05)
        written.append(1)

    tasks = [pool.submit(task) for task in (fail, write, write)]
    with pytest.raises(RuntimeError, match="at once"):
        Pending(tasks, lambda: None).result()
    assert written == [1, 1]


def _held_starter(
    pool: ThreadPool, running: list[int], begun: list[int], items: int, depth: int
) -> Iterator[int]:
    """Values of four tasks, which go on once one of the four has been dropped; but those of item 0 at once."""

    def start(item: int) -> Pending[int]:
        dropped = threading.Event()

        def work() -> None:
            begun.append(item)
            running.append(item)
            assert item == 0 or dropped.wait(600)
            running.remove(item)

        tasks = [pool.submit(work) for _ in range(4)]
        for task in tasks:
            task.add_done_callback(lambda _: dropped.set())
        return Pending(tasks, lambda: item)

    return run_ahead(start, range(items), depth)


def test_close_drops_what_waits_and_waits_for_what_runs(pool: ThreadPool) -> None:
    running: list[int] = []
    begun: list[int] = []
    values = _held_starter(pool, running, begun, 100, 5)
    assert next(values) == 0
    values.close()  # type: ignore[attr-defined]
    assert running == []
    assert begun[:4] == [0] * 4
    assert len(begun) <= 4 + 5 * 2  # of the four tasks of an item, two threads have two
    after = len(begun)
    time.sleep(0.05)
    assert len(begun) == after


@pytest.mark.parametrize("closed", [False, True])
def test_a_pool_that_ends_first_makes_nobody_wait_for_ever(closed: bool) -> None:
    with ThreadPool(1) as threads:
        values = _held_starter(threads, [], [], 3, 2)
        assert next(values) == 0
    if closed:
        values.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(CancelledError):
            next(values)


def test_an_error_while_starting_abandons_what_is_under_way(pool: ThreadPool) -> None:
    running: list[int] = []

    def start(item: int) -> Pending[int]:
        if item == 3:
            raise ValueError("item 3 cannot start")

        def work() -> None:
            running.append(item)
            time.sleep(0.02)
            running.remove(item)

        return Pending([pool.submit(work) for _ in range(4)], lambda: item)

    with pytest.raises(ValueError, match="item 3 cannot start"):
        next(run_ahead(start, range(9), 5))
    assert running == []


def test_ctrl_c_while_waiting_leaves_nothing_running(pool: ThreadPool) -> None:
    running: list[int] = []
    interrupted = threading.Event()
    main = threading.get_ident()

    def start(item: int) -> Pending[int]:
        def work() -> None:
            running.append(item)
            if not interrupted.is_set():
                interrupted.set()
                _wait_until_it_runs(main, Pending.result)
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            running.remove(item)

        return Pending([pool.submit(work) for _ in range(3)], lambda: item)

    # a shell that runs the tests in the background makes them ignore Ctrl-C
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(run_ahead(start, range(9), 1))
    finally:
        signal.signal(signal.SIGINT, usual)
    assert running == []


def _wait_until_it_runs(thread: int, function: Callable[..., object]) -> None:
    """Return when the thread is inside the function."""
    while True:
        frame: FrameType | None = sys._current_frames()[thread]
        while frame is not None:
            if frame.f_code is function.__code__:
                return
            frame = frame.f_back
        time.sleep(0.001)
