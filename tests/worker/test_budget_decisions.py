"""What a daemon does next where commits are scarce: the pure parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ghcoord.coord.tasks.tasks import Submission
from ghcoord.coord.workers.tick import Beat, Finished
from ghcoord.execution.frugal import Next, Standing, decide
from ghcoord.execution.rhythm import BURST, CROWD, Rhythm
from ghcoord.hub import Hub
from ghcoord.model.lease import GIVE_UP_AT
from ghcoord.model.worker import Capabilities
from ghcoord.store.budget.base import Pace
from tests.coord.world import GOOD, World

NOW = 1000.0
EVERY = 100.0


def standing(*, credit: float = 0.0, **changes: Any) -> Standing:
    """A daemon with work in hand that committed just now, and may again in 100 seconds."""
    usual: dict[str, Any] = {
        "now": NOW,
        "busy": True,
        "results": False,
        "returned": False,
        "free": False,
        "wants": True,
        "draining": False,
        "queued": False,
        "renew_at": NOW + 500,
        "write_at": NOW + EVERY,
        "retry_at": 0.0,
        "look_at": NOW,
        "due_at": None,
        "credit_at": lambda wanted: NOW + max(0.0, wanted - credit) * EVERY,
    }
    return Standing(**{**usual, **changes})


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        pytest.param(standing(), Next(False, False, False, NOW + 500), id="enough in hand: not even a poll"),
        pytest.param(standing(results=True, credit=2), Next(False, False, False, NOW + EVERY), id="results gather"),
        pytest.param(standing(results=True, write_at=NOW), Next(True, False, False, NOW), id="until it may commit"),
        pytest.param(standing(renew_at=NOW), Next(True, False, False, NOW), id="a renewal is due"),
        pytest.param(
            standing(busy=False, free=True, results=True, queued=True),
            Next(True, False, False, NOW),
            id="out of work, and there is more: at once",
        ),
        pytest.param(
            standing(busy=False, free=True, results=True, queued=True, credit=-BURST),
            Next(False, False, False, NOW + (1 - BURST + BURST) * EVERY),
            id="not if it did so too often",
        ),
        pytest.param(
            standing(busy=False, free=True, results=True),
            Next(False, False, False, NOW + EVERY),
            id="out of work, and there is no more: the result waits",
        ),
        pytest.param(
            standing(busy=False, free=True, results=True, credit=1),
            Next(True, False, False, NOW),
            id="a single result on a quiet hub",
        ),
        pytest.param(standing(busy=False, free=True), Next(False, True, False, NOW), id="idle: it looks"),
        pytest.param(standing(free=True, credit=1), Next(False, True, False, NOW), id="a slot is free: it looks"),
        pytest.param(standing(free=True), Next(False, False, False, NOW + EVERY), id="but not without credit"),
        pytest.param(
            standing(busy=False, free=True, look_at=NOW + 7),
            Next(False, False, False, NOW + 7),
            id="it looked just now",
        ),
        pytest.param(
            standing(busy=False, free=True, renew_at=NOW, retry_at=NOW + 9),
            Next(False, False, False, NOW + 9),
            id="after a lost race it waits",
        ),
        pytest.param(
            standing(busy=False, results=True, draining=True, wants=False, credit=-BURST),
            Next(True, False, False, NOW),
            id="the last results of one that stops",
        ),
        pytest.param(standing(returned=True, credit=1), Next(True, False, False, NOW), id="what goes back, goes soon"),
        pytest.param(
            standing(busy=False, look_at=NOW + 7, due_at=NOW - 1), Next(False, False, True, NOW), id="a timer is due"
        ),
    ],
)
def test_what_is_next(standing: Standing, expected: Next) -> None:
    """Each case by its name."""
    found = decide(standing)
    assert (expected.commit, expected.look, expected.due) == (found.commit, found.look, found.due)
    assert pytest.approx(expected.at) == found.at


# -- the rhythm


class FakeBudget:
    """A pace that goes by the number of workers alone."""

    account = "github.test/me"

    def __init__(self) -> None:
        self.workers = 1

    def share(self, workers: int, *, here: bool = True) -> None:
        self.workers = workers

    def pace(self) -> Pace:
        return Pace(10.0 * self.workers, 2.0 * self.workers, 45.0 * self.workers, self.workers)

    def write_ready_in(self) -> float:
        return 0.0


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def hub(world: World, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub in memory that says it had limits."""
    budget = FakeBudget()
    monkeypatch.setattr("ghcoord.store.inmemory.MemoryStore.budget", budget)
    return world.open()


def test_a_lease_may_be_either_while_an_answer_is_missing(hub: Hub) -> None:
    """A shorter ttl counts once it is sent, a longer one once it is acknowledged; a refusal takes it back."""
    rhythm = Rhythm(hub, 15.0, None)
    rhythm.granted(100.0, 90.0)
    assert 100 + 90 * GIVE_UP_AT == rhythm.give_up_at()
    rhythm.asks(110.0, 900.0)
    assert (90.0, 100 + 90 * GIVE_UP_AT) == (rhythm.ttl, rhythm.give_up_at())
    rhythm.granted(110.0, 900.0)
    assert (900.0, 110 + 900 * GIVE_UP_AT) == (rhythm.ttl, rhythm.give_up_at())
    rhythm.asks(200.0, 60.0)
    assert (60.0, 200 + 60 * GIVE_UP_AT) == (rhythm.ttl, rhythm.give_up_at())
    rhythm.refused()
    assert (900.0, 110 + 900 * GIVE_UP_AT) == (rhythm.ttl, rhythm.give_up_at())


def test_the_ttl_follows_the_number_of_workers(world: World, hub: Hub) -> None:
    """More workers, longer leases, and back; what was chosen is the least; other accounts do not count."""
    rhythm = Rhythm(hub, 100.0, None)
    assert 100.0 == rhythm.wished_ttl()
    for number in range(9):
        hub.workers.register(f"w{number}", account="github.test/me")
    hub.workers.register("other", account="github.test/you")
    rhythm.count("w0", hub.workers.present().values())
    assert (9, 10, 405.0) == (rhythm.workers, rhythm.fleet, rhythm.wished_ttl())
    for number in range(1, 9):
        hub.workers.deregister(f"w{number}")
    rhythm.count("w0", hub.workers.present().values())
    assert (1, 100.0) == (rhythm.workers, rhythm.wished_ttl())
    rhythm.meet_crowd()
    assert CROWD == rhythm.workers


def test_commits_may_be_made_up_for(world: World, hub: Hub) -> None:
    """Two sooner than the pace; then each takes its time."""
    rhythm = Rhythm(hub, 15.0, None)
    now = world.runtime.monotonic()
    assert now == rhythm.credit_at(1)
    for _ in range(3):
        rhythm.granted(now, 45.0)
    assert now + 20 == rhythm.credit_at(1)
    world.runtime.advance(10)
    rhythm.refresh()
    assert now + 20 == rhythm.credit_at(1)


# -- the tick


def test_a_tick_publishes_the_ttl_and_the_account_is_kept(world: World, hub: Hub) -> None:
    """In any commit of the worker; the record is what observers go by."""
    token = hub.workers.register("w1", ttl=15, account="github.test/me").token
    hub.beat(Beat("w1", token, ttl=900.0))
    worker = hub.workers.get("w1")
    assert worker is not None
    assert (15.0, "github.test/me") == (worker.ttl, worker.account), "nothing was committed"
    hub.beat(Beat("w1", token, renew=True, ttl=900.0))
    worker = hub.workers.get("w1")
    assert worker is not None
    assert (900.0, "github.test/me") == (worker.ttl, worker.account)
    world.runtime.advance(800)
    assert [] == hub.workers.stale()
    world.runtime.advance(101)
    assert ["w1"] == hub.workers.stale()


def test_the_queue_is_shared_out(hub: Hub) -> None:
    """Of what it would lease ahead a worker gets its part, never fewer than the least; free slots are filled anyway."""
    hub.tasks.submit_many([Submission("echo")] * 100)
    asks = {"w1": (10, 0, 10), "w2": (10, 30, 30), "w3": (1, 0, 50)}
    for name, (among, least, expected) in asks.items():
        token = hub.workers.register(name, capacity=2, capabilities=Capabilities(supported_task_types=("echo",))).token
        reply = hub.beat(Beat(name, token, tools=("echo",), want=50, ahead=48, among=among, least=least))
        assert expected == len(reply.leased), name
        assert reply.queued >= 10
    last = hub.beat(Beat(name, token, tools=("echo",), want=7, ahead=0, among=1000))
    assert 7 == len(last.leased)


def test_what_is_due_is_left_to_others(world: World, hub: Hub) -> None:
    """A look without upkeep commits nothing; a commit that is made anyway does what is due."""
    token = hub.workers.register("w1", capabilities=Capabilities(supported_task_types=("echo",))).token
    hub.tasks.submit("echo", not_before=5)
    world.runtime.advance(6)
    before = hub.commits
    assert 0 == hub.beat(Beat("w1", token, tools=("echo",), upkeep=False)).queued
    assert before == hub.commits
    assert 1 == hub.beat(Beat("w1", token, tools=("echo",), upkeep=False, renew=True)).queued


def test_tasks_that_are_too_large_together_are_left(hub: Hub) -> None:
    """``room`` bounds what a worker holds."""
    hub.tasks.submit_many([Submission("echo", {"message": "x" * 1000})] * 10)
    token = hub.workers.register("w1", capabilities=Capabilities(supported_task_types=("echo",))).token
    reply = hub.beat(Beat("w1", token, tools=("echo",), want=10, ahead=9, room=5000))
    assert 1 <= len(reply.leased) <= 4
    hub.beat(Beat("w1", token, finished=[Finished(reply.leased[0].id, token, GOOD)]))
