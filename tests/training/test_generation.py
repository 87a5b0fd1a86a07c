"""Ranks of one start find each other, and never those of an earlier one, in a store that outlives them."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore, PrefixStore, Store

import training.generation
from training.generation import agent_store, store_of_this_start

RANKS = 3


def _start(store: Store, pool: ThreadPoolExecutor, delays: list[float]) -> list[Future[Store]]:
    """Start a thread a rank, each a while later than it could."""

    def join(rank: int) -> Store:
        time.sleep(delays[rank])
        return store_of_this_start(store, rank, RANKS)

    return [pool.submit(join, rank) for rank in range(RANKS)]


@pytest.mark.parametrize("delays", [[0.0, 0, 0], [0.3, 0, 0.1], [0, 0.3, 0]])
def test_each_start_has_keys_of_its_own(delays: list[float]) -> None:
    """Whoever comes last: rank 0, while the others find the earlier generation, or another."""
    outlives = HashStore()
    with ThreadPoolExecutor(RANKS) as pool:
        for start in range(3):
            stores = [future.result(timeout=300) for future in _start(outlives, pool, delays)]
            assert not any(store.check(["address/0"]) for store in stores), "of an earlier start"
            for rank, store in enumerate(stores):
                store.set(f"address/{rank}", f"start {start}, rank {rank}")
            for store in stores:
                for rank in range(RANKS):
                    assert store.get(f"address/{rank}") == f"start {start}, rank {rank}".encode()


def test_processes_that_were_killed_while_they_joined_mislead_nobody() -> None:
    """Rank 0 had named a generation and answered rank 1; rank 2 never came."""
    outlives = HashStore()
    shared = PrefixStore("fasttail", outlives)
    shared.set("generation", "old")
    for key in ("old/hello/1", "old/welcome/1"):
        shared.set(key, "a dead process")
    with ThreadPoolExecutor(RANKS) as pool:
        stores = [future.result(timeout=300) for future in _start(outlives, pool, [0.2, 0, 0])]
    stores[0].set("key", "new")
    assert [store.get("key") for store in stores] == [b"new"] * RANKS
    assert not PrefixStore("old", shared).check(["key"])


def test_ranks_that_never_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.generation, "PATIENCE", timedelta(seconds=0.2))
    with pytest.raises(TimeoutError, match=r"ranks \[1, 2\] did not start within"):
        store_of_this_start(HashStore(), 0, RANKS)
    with pytest.raises(TimeoutError, match=r"rank 0 did not start within"):
        store_of_this_start(HashStore(), 1, RANKS)


def test_without_an_agent_there_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert agent_store() is None
