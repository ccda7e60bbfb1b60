"""Gates: never more of a key at a time, or within a period, than its limits say, and nobody waits who need not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.coord.queue import gates, lookup, records
from ghcoord.coord.workers.tick import Returned
from ghcoord.hub import Hub
from ghcoord.model.codec import stamp
from ghcoord.model.gate import Gate
from ghcoord.model.requirements import Requirements
from ghcoord.model.task import Assignment, Limit, State, Task
from ghcoord.testing.clock import START
from tests.coord.world import BAD, Daemon, World, edited, enqueue, ids, token_of, where

ONE = Limit(key="k", concurrency=1)
TWO = Limit(key="k", concurrency=2)
RATE = Limit(key="k", rate=3, period=10)


def gate(hub: Hub, key: str = "k") -> Gate | None:
    return hub._context.transact((layout.FLEET,), lambda tx: gates.get(tx, key))


def ready(world: World) -> list[str]:
    """Ids that workers see, those of which a gate shows the first included."""
    paths = [path for folder in (layout.READY, layout.ASSIGNED) for path, _ in world.snapshot("fleet").walk(folder)]
    return sorted(path.rpartition("-")[2] for path in paths if layout.BEHIND_GATES not in path)


def test_no_more_run_at_a_time_than_the_key_allows(both: World) -> None:
    """The best go first; when one ends, the next one goes, in the same tick; others wait unseen."""
    hub = both.open()
    enqueue(hub, "a", "b", "c", limit=TWO)
    enqueue(hub, "d", limit=TWO, priority=5)
    daemon = Daemon(hub)
    assert ["d"] == ready(both), "of a line only the first is shown"
    first = daemon.lease(9)
    assert ["d", "a"] == ids(first)
    assert [] == ready(both)
    assert [] == daemon.lease(9)
    both.check_index()
    assert ["b"] == ids(daemon.report(first[0], want=9).leased)
    assert ["c"] == ids(daemon.report(first[1], BAD, want=9).leased)
    both.check_index()


def test_who_has_no_key_goes_past(world: World) -> None:
    """Tasks of a saturated key hold up nobody, whatever their priority."""
    hub = world.open()
    enqueue(hub, "a", "b", "c", limit=ONE, priority=9)
    enqueue(hub, "x", "y")
    enqueue(hub, "o", limit=Limit(key="other", concurrency=1), priority=3)
    assert ["a", "o", "x", "y"] == ids(Daemon(hub).lease(9))
    world.check_index()


def test_starts_within_any_period_are_limited(both: World) -> None:
    """So many at once, the next when the first start has left the window; the daemon is told when that is."""
    hub = both.open()
    enqueue(hub, *"abcdefgh", limit=RATE)
    daemon = Daemon(hub, slots=20)
    assert ["a", "b"] == ids(daemon.lease(2))
    both.runtime.advance(4)
    daemon.beat(renew=True)
    reply = daemon.beat(want=9)
    assert ["c"] == ids(reply.leased)
    assert (START + 10, True) == (reply.next_due, reply.expects)
    both.runtime.advance(5.999)
    assert [] == daemon.lease(9)
    both.runtime.advance(0.001)
    reply = daemon.beat(want=9, renew=True)
    assert ["d", "e"] == ids(reply.leased)
    assert START + 14 == reply.next_due
    both.check_index()


def test_ending_soon_makes_no_room_in_a_window(world: World) -> None:
    """A rate counts starts, however they ended: done, failed, lost or given back."""
    hub = world.open()
    enqueue(hub, *"abcd", limit=RATE, max_failures=2)
    daemon = Daemon(hub)
    one, two, three = daemon.lease(3)
    daemon.report(one)
    daemon.report(two, BAD)
    daemon.beat(returned=(Returned("c", token_of(three), "why"),))
    assert [] == daemon.lease(9)
    assert ["c", "d"] == [task.id for task in hub.tasks.list("queued")]
    world.runtime.advance(10)
    assert ["b", "c", "d"] == ids(daemon.beat(want=9, renew=True).leased)
    world.check_index()


def test_both_limits_hold_at_once(world: World) -> None:
    """A key with a concurrency and a rate is open only while both say so."""
    hub = world.open()
    enqueue(hub, *"abcdef", limit=Limit(key="k", concurrency=2, rate=3, period=10))
    daemon = Daemon(hub)
    one, two = daemon.lease(9)
    (three,) = daemon.report(one, want=9).leased
    reply = daemon.report(two, want=9)
    assert ([], START + 10) == (reply.leased, reply.next_due)
    world.runtime.advance(10)
    reply = daemon.beat(want=9, renew=True)
    assert ["d"] == ids(reply.leased), "c still runs"
    assert None is reply.next_due, "only the end of a task opens it"
    assert ["e"] == ids(daemon.report(three, want=9).leased)
    world.check_index()


def test_no_start_is_counted_for_a_task_that_would_wait_for_a_slot(world: World) -> None:
    """What is leased ahead has no key; it is taken by whoever can start it."""
    hub = world.open()
    enqueue(hub, "a", "x", "y")
    enqueue(hub, "k1", "k2", limit=TWO, priority=5)
    enqueue(hub, "o1", "o2", limit=Limit(key="other", rate=2, period=9), priority=5)
    one, other = Daemon(hub, "w1"), Daemon(hub, "w2")
    assert ["k1", "a", "x"] == ids(one.beat(want=3, ahead=2).leased)
    assert ["k2", "o1"] == ids(other.beat(want=2).leased)
    assert ["y"] == ids(one.beat(want=5, ahead=5).leased)
    assert ["o2"] == ids(one.beat(want=5, ahead=4).leased)
    world.check_index()


def test_a_window_that_has_moved_on_opens_no_full_gate(world: World) -> None:
    """Time is not what such a key waits for: nobody is woken until its task ends."""
    hub = world.open()
    enqueue(hub, "a", "b", limit=Limit(key="k", concurrency=1, rate=1, period=5))
    daemon = Daemon(hub)
    (task,) = daemon.lease(9)
    assert None is daemon.beat().next_due
    world.runtime.advance(5)
    assert (None, []) == (daemon.beat(renew=True).next_due, daemon.lease(9))
    world.check_index()
    assert ["b"] == ids(daemon.report(task, want=9).leased)


def test_a_clock_that_goes_back_shuts_an_open_gate_again(world: World) -> None:
    """What was shown to workers is taken back, and comes when the window has moved on by the present clock."""
    hub = world.open()
    enqueue(hub, "a", "b", limit=Limit(key="k", rate=1, period=10))
    daemon = Daemon(hub)
    daemon.lease()
    world.runtime.advance(10)
    daemon.beat(renew=True)
    assert ["b"] == ready(world)
    world.runtime.jump_wall(-4)
    assert [] == daemon.lease(9)
    assert [] == ready(world)
    world.check_index()
    world.runtime.jump_wall(4)
    assert ["b"] == ids(daemon.lease(9))


def test_a_long_line_is_read_as_far_as_its_gate_opens(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task leased of a line costs one record, not all that wait behind it."""
    hub = world.open()
    enqueue(hub, *(f"n{number}" for number in range(300)), limit=ONE)
    enqueue(hub, "free")
    daemon = Daemon(hub)
    looked: list[str] = []
    real = lookup.sized
    monkeypatch.setattr(lookup, "sized", lambda tx, task_id: looked.append(task_id) or real(tx, task_id))
    assert ["n0", "free"] == ids(daemon.lease(9))
    assert {"n0", "free"} == set(looked)


def test_each_line_of_a_key_shows_its_first(world: World) -> None:
    """Tasks of one key with different needs: each worker finds those that it can run."""
    hub = world.open()
    enqueue(hub, "e1", "e2", limit=TWO)
    enqueue(hub, "big", limit=TWO, requirements=Requirements(min_cpu_cores=1000))
    enqueue(hub, "s1", "s2", tool="shell", limit=TWO)
    assert ["big", "e1", "s1"] == ready(world)
    shell, echo = Daemon(hub, "w1", tools=("shell",)), Daemon(hub, "w2")
    assert ["s1"] == ids(shell.lease())
    assert ["e1"] == ids(echo.lease(9))
    assert [] == ready(world) == shell.lease(9)
    world.check_index()


@pytest.mark.parametrize("how", ["cancel", "purge", "edit"])
def test_the_first_of_a_line_leaves_it(world: World, how: str) -> None:
    """Whatever takes the first task away, the next one is shown."""
    hub = world.open()
    first, *_ = enqueue(hub, "a", "b", limit=ONE)
    if how == "cancel":
        hub.tasks.cancel("a")
    elif how == "purge":
        hub._context.transact(("fleet",), lambda tx: records.remove(tx, first))
    else:
        world.put("fleet", {where("task", "a"): edited(world.files("fleet")[where("task", "a")], state="dead")})
        world.runtime.advance(1)
        hub.tasks.submit("other")
    assert "b" in ready(world)
    world.check_index()
    assert ["b"] == ids(Daemon(hub).lease(9))


def test_a_better_task_takes_the_first_place(world: World) -> None:
    """A later task of higher priority is the one that is shown, alone."""
    hub = world.open()
    enqueue(hub, "a", limit=ONE)
    enqueue(hub, "b", limit=ONE, priority=1)
    assert ["b"] == ready(world)
    world.check_index()


def test_the_latest_submission_sets_the_limits(world: World) -> None:
    """More room counts at once, less from the next start on; a retry sets nothing."""
    hub = world.open()
    daemon = Daemon(hub, slots=20)
    enqueue(hub, *"abcdef", limit=ONE)
    assert ["a"] == ids(daemon.lease(9))
    enqueue(hub, "g", limit=Limit(key="k", concurrency=4))
    assert ["b", "c", "d"] == ids(daemon.lease(9))
    hub.tasks.cancel("e")
    hub.tasks.retry("e")
    assert [] == daemon.lease(9)
    enqueue(hub, "h", limit=TWO)
    world.check_index()
    one, two, *_ = (task for task_id in "abc" if (task := hub.tasks.get(task_id)) is not None)
    daemon.report(one)
    assert [] == daemon.report(two, want=9).leased


def test_a_rate_that_is_lowered_and_raised_within_a_window_forgets_no_start(world: World) -> None:
    """What has started counts under whatever limit comes."""
    hub = world.open()
    daemon = Daemon(hub, slots=20)
    enqueue(hub, *"abcdefghi", limit=Limit(key="k", rate=4, period=10))
    assert 4 == len(daemon.lease(9))
    enqueue(hub, "x", limit=Limit(key="k", rate=1, period=10))
    enqueue(hub, "y", limit=Limit(key="k", rate=5, period=10))
    assert 1 == len(daemon.lease(9))
    world.check_index()


def test_what_falls_due_passes_its_gate(world: World) -> None:
    """Scheduled and backing-off tasks count for nothing until they are queued, and wait in line then."""
    hub = world.open()
    enqueue(hub, "a", limit=ONE, max_failures=3)
    enqueue(hub, "later", limit=ONE, state=State.SCHEDULED, due_at=stamp(START + 5), not_before=stamp(START + 5))
    daemon = Daemon(hub)
    (task,) = daemon.lease(9)
    world.runtime.advance(5)
    assert [] == daemon.lease(9)
    assert "queued" == getattr(hub.tasks.get("later"), "state", None)
    assert ["later"] == ids(daemon.report(task, BAD, want=9).leased)
    world.check_index()
    world.runtime.advance(5)
    daemon.beat(renew=True)
    assert ["a"] == ids(hub.tasks.list("queued"))
    assert [] == ready(world)
    world.check_index()


def test_a_worker_that_dies_makes_room(world: World) -> None:
    """Its tasks go back into their line, and count no longer."""
    hub = world.open()
    enqueue(hub, *"abc", limit=TWO)
    Daemon(hub, "w1").lease(9)
    other = Daemon(hub, "w2")
    assert [] == other.lease(9)
    hub.workers.deregister("w1")
    world.check_index()
    assert ["a", "b"] == ids(other.lease(9))


def test_a_gate_that_is_not_needed_leaves_no_record(world: World) -> None:
    """At once without a rate; with one when the window is over."""
    hub = world.open()
    daemon = Daemon(hub)
    enqueue(hub, "a", limit=ONE)
    daemon.report(daemon.lease()[0])
    assert None is gate(hub)
    enqueue(hub, "b", limit=RATE)
    daemon.report(daemon.lease()[0])
    assert 1 == len(getattr(gate(hub), "starts", ()))
    reply = daemon.beat()
    assert (START + 12, False) == (reply.next_due, reply.expects), "to forget is no work"
    world.runtime.advance(12)
    assert None is daemon.beat(renew=True).next_due
    assert None is gate(hub)
    assert [] == [path for path in world.files("fleet") if path.startswith(("gates/", "index/gated", "index/due"))]
    world.check_index()


def test_forgetting_is_put_off_while_the_key_is_used(world: World) -> None:
    """The record stays as long as a start counts, with at most one look a period."""
    hub = world.open()
    daemon = Daemon(hub, slots=50)
    for number in range(12):
        enqueue(hub, f"x{number}", limit=RATE)
        assert 1 == len(daemon.lease(1))
        world.check_index()
        world.runtime.advance(4)
        daemon.beat(renew=True)
    assert 3 == len(getattr(gate(hub), "starts", ()))


# -- meant for a worker


def test_a_task_with_a_key_that_is_meant_for_a_worker(world: World) -> None:
    """Only that worker gets it, in its order; when the worker goes, all others may."""
    hub = world.open()
    one, other = Daemon(hub, "w1"), Daemon(hub, "w2")
    meant = Assignment(worker="w1", at=stamp(START), pinned=True)
    enqueue(hub, "a", "b", "c", limit=TWO, assigned=meant)
    enqueue(hub, "d", limit=TWO)
    assert ["a", "d"] == ready(world)
    assert ["d"] == ids(other.lease(9))
    assert ["a"] == ids(one.lease(9))
    world.check_index()
    hub.workers.deregister("w1")
    world.check_index()
    assert ["a"] == ids(other.lease(9))
    assert ["b", "c"] == ids(hub.tasks.list("queued"))


def test_a_preference_ends_behind_a_gate(world: World) -> None:
    """When its time is over a task stands in the common line, gate or not."""
    hub = world.open()
    one, other = Daemon(hub, "w1"), Daemon(hub, "w2")
    enqueue(hub, "a", "b", limit=ONE, assigned=Assignment(worker="w1", at=stamp(START), until=stamp(START + 5)))
    assert [] == other.lease(9)
    world.runtime.advance(5)
    one.beat(renew=True)
    world.check_index()
    assert ["a"] == ids(other.beat(want=9, renew=True).leased)


# -- people


def broken(raw: bytes) -> bytes:
    return b"{broken"


def forged(raw: bytes) -> bytes:
    return json.dumps({**json.loads(raw), "running": 0, "exposed": [], "reopens_at": None, "starts": []}).encode()


def gone(raw: bytes) -> None:
    return None


def wider(raw: bytes) -> bytes:
    return json.dumps({**json.loads(raw), "concurrency": 3}).encode()


@pytest.mark.parametrize(("how", "more"), [(broken, []), (gone, []), (forged, []), (wider, ["c"])])
def test_a_gate_that_people_break_is_made_anew(world: World, how: Any, more: list[str]) -> None:
    """What runs is counted from the records; limits that a person edits count."""
    hub = world.open()
    enqueue(hub, *"abcd", limit=TWO)
    daemon = Daemon(hub)
    daemon.lease(9)
    path = layout.gate_path("k")
    world.put("fleet", {path: how(world.files("fleet")[path])})
    world.runtime.advance(1)
    assert more == ids(daemon.lease(9))
    world.check_index()


@pytest.mark.parametrize("how", [broken, gone])
def test_starts_are_known_from_the_tasks(world: World, how: Any) -> None:
    """A window outlives the record of its gate."""
    hub = world.open()
    enqueue(hub, *"abcd", limit=RATE, max_failures=3, tool="echo")
    daemon = Daemon(hub)
    for task in daemon.lease(3):
        daemon.beat(returned=(Returned(task.id, token_of(task), "x"),))
    path = layout.gate_path("k")
    world.put("fleet", {path: how(world.files("fleet")[path])})
    world.runtime.advance(1)
    assert [] == daemon.lease(9)
    world.check_index()
    world.runtime.advance(9)
    assert 3 == len(daemon.beat(want=9, renew=True).leased)


@pytest.mark.parametrize("key", ["k" * 256, "ключ " * 50, "a/b.lock", "%", "t12", "."])
def test_any_text_is_a_key(world: World, key: str) -> None:
    """Long ones, and those that no file system takes as they are."""
    hub = world.open()
    enqueue(hub, "a", "b", limit=Limit(key=key, concurrency=1, rate=1, period=5))
    daemon = Daemon(hub)
    (task,) = daemon.lease(9)
    assert [] == daemon.report(task, want=9).leased
    world.check_index()
    world.runtime.advance(5)
    assert ["b"] == ids(daemon.beat(want=9, renew=True).leased)
    world.check_index()


def test_a_human_moves_a_task_to_another_key(world: World) -> None:
    """The old gate forgets it, the new one counts it, also while it runs."""
    hub = world.open()
    enqueue(hub, *"abc", limit=ONE)
    daemon = Daemon(hub)
    daemon.lease(9)
    path = where("task", "a")
    other = {"key": "other", "concurrency": 1}
    world.put("fleet", {path: edited(world.files("fleet")[path], limit=other)})
    world.runtime.advance(1)
    assert ["b"] == ids(daemon.lease(9))
    world.check_index()
    assert 1 == getattr(gate(hub, "other"), "running", 0)


def test_task_events_name_the_key(world: World) -> None:
    """What started and ended can be counted by key from the history."""
    hub = world.open()
    enqueue(hub, *"abc", limit=TWO)
    daemon = Daemon(hub)
    one, two = daemon.lease(2)
    daemon.report(one)
    daemon.beat(returned=(Returned("b", token_of(two), "x"),), want=1)
    hub.workers.deregister("w1")
    told = [(event.kind, event.fields.get("key")) for event in hub.events(20) if event.kind.startswith("task")]
    kinds = {"task leased", "task succeeded", "task given back", "task lease lost"}
    assert {(kind, "k") for kind in kinds} == set(told)


def test_more_lines_of_a_key_than_its_record_can_hold(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there is room for are shown, the others when those are empty; nothing gets too large."""
    monkeypatch.setattr(gates, "MAX_EXPOSED", 2)
    hub = world.open()
    for tool in "abc":
        enqueue(hub, tool, tool=tool, limit=Limit(key="k", concurrency=5))
    assert ["a", "b"] == ready(world)
    daemon = Daemon(hub, tools=("a", "b", "c"))
    assert ["a", "b"] == ids(daemon.lease(9))
    assert ["c"] == ids(daemon.lease(9))
    world.check_index()


def test_the_records_of_a_batch_are_found_in_few_places(world: World) -> None:
    """Ids that ghcoord makes lie side by side, and others where they always did."""
    assert "tasks/t/000000/04/t1042.json" == layout.task_path("t1042")
    assert "tasks/t/00000f/42/t1000000.json" == layout.task_path("t1000000")
    for other in ("t", "t01", "t1x", "T1", "t123456789012", "x1"):
        assert not layout.task_path(other).startswith("tasks/t/"), other
    assert isinstance(Task, type)
