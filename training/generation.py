"""A store that the ranks of one start share with nobody: what torchrun's restarts lack.

torchrun's agent keeps one key-value store for all restarts of its workers, and process groups exchange their
addresses through it, under the same keys each time. After a restart a rank can so read the address of a process
that is dead, and the run ends with "connection refused" (pytorch/pytorch#135712; with gloo in 2 of 6 trials here).
TORCHELASTIC_RESTART_COUNT does not help, for each node counts its own restarts.

So rank 0 of each start names a new generation, and a rank believes in a generation once rank 0 has answered it:
a dead one does not answer. The group then uses keys with the generation's name in front.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

PATIENCE = timedelta(minutes=10)
"""How long ranks wait for one another, from the first to the last that starts."""
CONNECT_PATIENCE = timedelta(minutes=1)
"""For the agents' store, which is there before any rank is: without an answer the agent has been killed."""
POLL_SECONDS = 0.02
FIRST_START = "fasttail/first start"


def agent_store() -> Store | None:
    """The store that torchrun's agent holds for its workers; None without such an agent."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, timeout=CONNECT_PATIENCE)
    store.set_timeout(PATIENCE)
    return store


def is_started_again() -> bool:
    """Whether an earlier start of the same job has called `note_first_start`: torchrun or Slurm repeats its command.

    The agents' store outlives the processes; a job that Slurm has queued again has none, but is told so.
    """
    store = agent_store()
    again = store is not None and store.check([FIRST_START])
    return again or int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def note_first_start() -> None:
    """Let later starts know that what only the first one does is done."""
    if store := agent_store():
        store.set(FIRST_START, "done")


def store_of_this_start(store: Store, rank: int, world_size: int) -> Store:
    """Return a store for the ranks of this start alone, on top of one that outlives them.

    Raises:
        TimeoutError: not all ranks came within `PATIENCE`.
    """
    shared = PrefixStore("fasttail", store)
    deadline = time.monotonic() + PATIENCE.total_seconds()
    generation = _lead(shared, world_size, deadline) if rank == 0 else _follow(shared, rank, deadline)
    return PrefixStore(generation, shared)


def _lead(store: Store, world_size: int, deadline: float) -> str:
    """Name a generation, and answer every other rank that says its name in it."""
    generation = uuid.uuid4().hex
    store.set("generation", generation)
    missing = set(range(1, world_size))
    while True:
        for rank in sorted(missing):
            if store.check([f"{generation}/hello/{rank}"]):
                store.set(f"{generation}/welcome/{rank}", store.get(f"{generation}/hello/{rank}").decode())
                missing.remove(rank)
        if not missing:
            return generation
        _pause(deadline, f"ranks {sorted(missing)} did not start")


def _follow(store: Store, rank: int, deadline: float) -> str:
    """Say a name of this process's own to the newest generation until rank 0 repeats it."""
    own = uuid.uuid4().hex
    while True:
        if store.check(["generation"]):
            generation = store.get("generation").decode()
            store.set(f"{generation}/hello/{rank}", own)
            welcome = f"{generation}/welcome/{rank}"
            if store.check([welcome]) and store.get(welcome).decode() == own:
                return generation
        _pause(deadline, "rank 0 did not start")


def _pause(deadline: float, reason: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{reason} within {PATIENCE}; see what the other processes say")
    time.sleep(POLL_SECONDS)
