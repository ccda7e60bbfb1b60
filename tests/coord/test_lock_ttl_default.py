"""How long a lock lasts when nobody says: longer where renewals are scarce."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ghcoord.config import LockSettings
from ghcoord.store.budget.base import Pace
from tests.coord.world import World


class Slow:
    """A budget that leaves a renewal every ten minutes."""

    account = "github.test/me"

    def pace(self) -> Pace:
        return Pace(600.0, 60.0, 1800.0, 40)

    def write_ready_in(self) -> float:
        return 0.0


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("ghcoord.store.inmemory.MemoryStore.budget", Slow())
    made = World()
    yield made
    made.close()


def test_the_usual_ttl_stretches_what_was_chosen_stays(world: World) -> None:
    """The call goes before the process's settings, these before the hub's; only without any does the pace count."""
    hub = world.open()

    def ttl(name: str, given: float | None = None) -> float:
        lock = hub.locks.acquire(name, "me", ttl=given)
        assert lock is not None
        return lock.ttl

    assert (1800.0, 90.0) == (ttl("a"), ttl("b", 90.0))
    hub.config.set("locks.ttl", "10m")
    assert 600.0 == ttl("c")
    own = world.open("other", locks=LockSettings(ttl=45.0)).locks.acquire("d")
    assert own is not None
    assert 45.0 == own.ttl
