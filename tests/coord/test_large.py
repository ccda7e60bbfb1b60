"""Many large tasks: no commit grows beyond what a store takes, neither by leasing nor by taking back."""

from __future__ import annotations

from ghcoord.bootstrap import open_hub
from ghcoord.config import Settings
from ghcoord.coord.queue.leasing import HELD_BYTES
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import Beat
from ghcoord.store.inmemory import MemoryStore
from ghcoord.testing.clock import ManualRuntime


def test_many_large_tasks_are_leased_and_recovered_in_parts() -> None:
    """A hundred slots and 800 kB a task: a worker holds what fits a commit, and two dead ones are both recovered."""
    runtime = ManualRuntime()
    hub = open_hub(MemoryStore(runtime.now), runtime, Settings(), make=True)
    hub.tasks.submit_many([Submission("echo", {"message": "x" * 800_000}) for _ in range(80)])
    held = {}
    for name in ("w1", "w2"):
        token = hub.workers.register(name, capacity=100, ttl=10).token
        reply = hub.beat(Beat(name, token, tools=("echo",), want=100))
        held[name] = len(reply.leased)
        assert 0 < len(reply.leased) <= HELD_BYTES // 800_000
        assert [] == hub.beat(Beat(name, token, tools=("echo",), want=100)).leased
    runtime.advance(60)
    hub.workers.reap()
    assert {"queued": 80} == {state: count for state, count in hub.tasks.counts().items() if count}
    assert sum(held.values()) == sum(task.lost for task in hub.tasks.list("queued"))
