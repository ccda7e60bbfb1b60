"""A worker's look at the hub, and a call that is queued in the same millisecond."""

from __future__ import annotations

from pathlib import Path

from ghcoord.coord.layout import FLEET
from ghcoord.coord.workers.tick import Beat, Reply
from ghcoord.execution.worker import WorkerDaemon
from tests.coord.world import World
from tests.processes import until


def test_what_is_queued_in_the_moment_of_a_look_is_seen_with_the_next(tmp_path: Path) -> None:
    """A tick that changes nothing takes no revision; another's commit may have the one that it would have had."""
    world = World()
    hub = world.open()
    daemon = WorkerDaemon(hub, "w1", workspace=tmp_path, commands=False)
    daemon._join()
    daemon._tick()
    world.runtime.advance(0.01)
    seen = hub.heads()[FLEET]

    def look() -> Reply:
        reply = hub.beat(Beat("w1", daemon._token, tools=("echo",), want=1))
        assert [] == reply.leased
        hub.tasks.submit("echo", {"message": "x"})
        assert (False, reply.revision) == (reply.renewed, (hub.newest() or (0, ""))[0])
        return reply

    daemon._receive(Beat("w1", daemon._token, want=1), look, world.runtime.monotonic(), seen)
    assert hub.heads()[FLEET] != daemon._seen_head
    daemon._tick()
    assert 1 == len(hub.tasks.list("leased"))
    until(lambda: daemon._slots.outcomes()[0])
    daemon._close()
    world.close()
