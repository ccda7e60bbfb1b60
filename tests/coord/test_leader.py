"""Leader election: one leads, is told in time when it no longer does, and another follows."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ghcoord.coord.locks.leader import DEFAULT_TTL, Election, Term, timing
from ghcoord.errors import FenceRefused, InvalidName, LeaseLost, NotFound, NotOwner, UsageError
from ghcoord.testing.faults import CommitFault
from tests.coord.world import MARGIN, World, taken


def test_the_one_who_leads_does_its_work_and_resigns(world: World) -> None:
    """It gets a term with a fencing token; when the work is done it gives the lead up, and is told once."""
    hub, told = world.open("a"), []

    def work(term: Term) -> None:
        assert ("a", "sched", False, False) == (term.id, term.name, term.lost, term.stop.is_set())
        term.check()
        hub.memory.set("k", 1, fence=("leader/sched", term.token))
        current = hub.leader.current("sched")
        assert current is not None
        assert (term.token, DEFAULT_TTL) == (current.token, current.ttl)
        assert {"sched": current} == hub.leader.list()
        told.append("started")

    hub.leader.run("sched", work, lambda term: told.append("stopped"), on_new_leader=told.append)
    assert ["a", "started", "stopped"] == told
    assert None is hub.leader.current("sched")
    assert {} == hub.leader.list()


def campaign(world: World, election: Election) -> Any:
    return world.runtime.spawn(election.run, "campaign")


def test_another_leads_when_the_leader_falls_silent(world: World) -> None:
    """After lease and margin; what the old one writes with its token is refused, and each change was seen."""
    a, b = world.open("a"), world.open("b")
    old = taken(a.locks.acquire("leader/sched", ttl=9))
    seen: list[str] = []
    led: list[Term] = []
    campaign(world, b.leader.election("sched", led.append, on_new_leader=seen.append))
    world.runtime.advance(9 + MARGIN)
    assert (["a"], []) == (seen, led)
    world.runtime.advance(1)
    assert ["a", "b"] == seen
    assert led[0].token > old.token
    with pytest.raises(FenceRefused):
        a.memory.set("k", 1, fence=("leader/sched", old.token))


def test_the_leader_renews(world: World) -> None:
    """As often as its timing says, for as long as its work takes; nobody else leads meanwhile."""
    a, b = world.open("a"), world.open("b")
    others: list[Term] = []

    def work(term: Term) -> None:
        before = a.commits
        term.stop.wait(60)
        assert not term.lost
        assert 60 / 5 == pytest.approx(a.commits - before, abs=1)

    one = campaign(world, a.leader.election("sched", work, ttl=30, renew=5))
    world.runtime.advance(1)
    campaign(world, b.leader.election("sched", others.append, ttl=30))
    world.runtime.advance(58)
    assert [] == others
    world.runtime.advance(4)
    assert not one.is_alive()
    assert 1 == len(others)


@pytest.mark.parametrize("once", [False, True])
def test_who_loses_the_lead_is_told_before_another_leads(world: World, once: bool) -> None:
    """Cut off from the hub, it is stopped at its deadline; then it campaigns again, or with ``once`` ends."""
    hub, faulty = world.open_faulty("a")
    other = world.open("b")
    times: dict[str, float] = {}
    terms: list[int] = []
    errors: list[LeaseLost] = []

    def work(term: Term) -> None:
        terms.append(term.token)
        if len(terms) == 1:
            times["cut"] = world.runtime.monotonic()
            faulty.fail_commits(*[CommitFault.REQUEST_LOST] * 10_000)
            term.stop.wait()
            assert term.lost
            with pytest.raises(LeaseLost):
                term.check()

    def stopped(term: Term) -> None:
        times.setdefault("stopped", world.runtime.monotonic())
        faulty._commit_faults.clear()

    def run() -> None:
        try:
            hub.leader.run("sched", work, stopped, ttl=12, renew_deadline=6, renew=2, once=once)
        except LeaseLost as lost:
            errors.append(lost)

    thread = world.runtime.spawn(run, "a")
    world.runtime.advance(0.1)
    campaign(world, other.leader.election("sched", lambda term: times.update(next=world.runtime.monotonic())))
    world.runtime.advance(40)
    assert not thread.is_alive()
    assert 6 <= times["stopped"] - times["cut"] < 7
    assert times["stopped"] < times["next"]
    assert 12 + MARGIN <= times["next"] - times["cut"] + 2
    assert (1, 1) == (len(errors), len(terms)) if once else (0, 2) == (len(errors), len(terms))


def test_a_fair_election_goes_by_the_order_of_candidates(world: World) -> None:
    """Who came first leads next."""
    holder = world.open("holder")
    held = taken(holder.locks.acquire("leader/sched", ttl=600))
    led: list[str] = []
    for name in ("c", "a", "b"):
        campaign(world, world.open(name).leader.election("sched", lambda term: led.append(term.id), fair=True))
        world.runtime.advance(0.5)
    assert ["c", "a", "b"] == [one.owner for one in holder.leader.candidates("sched")]
    holder.locks.release("leader/sched", "holder", held.token)
    world.runtime.advance(10)
    assert ["c", "a", "b"] == led


def test_resigning(world: World) -> None:
    """The leader's own id ends it, and it notices at its next renewal; others may not, and nobody cannot."""
    a, b = world.open("a"), world.open("b")
    with pytest.raises(NotFound):
        a.leader.resign("sched")
    stopped: list[int] = []
    terms: list[Term] = []
    began: list[float] = []

    def work(term: Term) -> None:
        terms.append(term)
        began.append(world.runtime.monotonic())
        term.stop.wait(100 if len(terms) == 1 else 0)

    campaign(world, a.leader.election("sched", work, lambda term: stopped.append(term.token), ttl=9))
    world.runtime.advance(1)
    with pytest.raises(NotOwner):
        b.leader.resign("sched")
    a.leader.resign("sched")
    assert [] == stopped
    world.runtime.advance(4)
    assert [terms[0].token] == stopped[:1]
    world.runtime.advance(10)
    assert 2 == len(terms), "it campaigns again"
    assert 3 + 3 <= began[1] - began[0] < 7, "after its renewal and a pause, in which others may come first"


@pytest.mark.parametrize("leading", [False, True])
def test_an_election_can_be_stopped(world: World, leading: bool) -> None:
    """From another thread: while it campaigns, leaving the queue, and while it leads, giving the lead up."""
    hub = world.open("a")
    if not leading:
        world.open("b").locks.acquire("leader/sched", ttl=600)
    election = hub.leader.election("sched", lambda term: term.stop.wait(), fair=True)  # type: ignore[func-returns-value]
    thread = campaign(world, election)
    world.runtime.advance(1)
    assert thread.is_alive()
    election.stop()
    world.runtime.advance(1)
    assert not thread.is_alive()
    assert [] == hub.leader.candidates("sched")
    assert leading is (hub.leader.current("sched") is None)


def test_errors_of_the_work_come_through(world: World) -> None:
    """The lead is given up first; the loss of some other lock is such an error, not a loss of the lead."""
    hub = world.open()

    def fail(term: Term) -> None:
        raise ZeroDivisionError

    def lose_another(term: Term) -> None:
        hub.memory.set("k", 1, fence=("other", 7))

    with pytest.raises(ZeroDivisionError):
        hub.leader.run("sched", fail)
    with pytest.raises(FenceRefused):
        hub.leader.run("sched", lose_another)
    assert None is hub.leader.current("sched")


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"ttl": 0.5}, "out of range"),
        ({"ttl": 9, "deadline": 9}, "deadline of 9 s does not go with a ttl of 9 s"),
        ({"ttl": 9, "deadline": 0}, "does not go with a ttl"),
        ({"ttl": 9, "renew": 5}, "renewal every 5 s does not go with a deadline of 6 s: give less than 5 s"),
        ({"ttl": 9, "renew": 0}, "does not go with a deadline"),
    ],
)
def test_a_timing_leaves_room(times: dict[str, float], why: str) -> None:
    """ttl > deadline > 1.2 × renew, or an error that names a value which goes."""
    with pytest.raises(UsageError, match=why):
        timing(**times)


def test_the_rest_of_a_timing_follows() -> None:
    """Two thirds of the ttl, and half of that; what is given is taken."""
    assert (30.0, 20.0, 10.0) == timing()
    assert (9.0, 6.0, 3.0) == timing(9)
    assert (9.0, 8.0, 1.0) == timing(9, 8, 1)


def test_bad_names_are_refused(world: World) -> None:
    """Before anything is waited for."""
    hub = world.open()
    for call in (lambda: hub.leader.run("", print), lambda: hub.leader.run("x", print, id="a\nb")):
        with pytest.raises(InvalidName):
            call()


def test_only_one_of_many_threads_leads() -> None:
    """In real time: candidates of one process, each leads once, never two at a time."""
    from ghcoord.bootstrap import open_hub
    from ghcoord.clock import SystemRuntime
    from ghcoord.config import Settings
    from ghcoord.store.inmemory import MemoryStore

    runtime = SystemRuntime()
    hub = open_hub(MemoryStore(runtime.now), runtime, Settings(poll=0.02), actor="me")
    inside, most = [0], [0]

    def work(term: Term) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        runtime.sleep(0.005)
        inside[0] -= 1

    threads = [threading.Thread(target=hub.leader.run, args=("x", work), kwargs={"id": f"c{n}"}) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert ([0], [1]) == (inside, most)
