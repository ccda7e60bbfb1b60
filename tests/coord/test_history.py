"""The hub as it was: every space at its last commit at or before a moment, found in any history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from ghcoord.coord.audit.history import History, moment
from ghcoord.coord.layout import FLEET, memory_space
from ghcoord.errors import NotFound, Unsupported, UsageError
from ghcoord.hub import Hub
from ghcoord.model.event import AuditEntry
from ghcoord.store.base import CommitInfo
from ghcoord.store.heads import stamp_of
from ghcoord.testing.clock import START
from tests.coord.world import Daemon, World, edited, where

GLOBAL = memory_space("global")


def state(hub: Hub) -> dict[str, Any]:
    """What a hub says about itself."""
    return {
        "tasks": {task.id: str(task.state) for task in hub.tasks.list()},
        "counts": hub.tasks.counts(),
        "workers": {worker.id: str(worker.status) for worker in hub.workers.list()},
        "locks": {lock.name: (lock.owner, lock.token) for lock in hub.locks.list()},
        "memory": {entry.key: entry.value for entry in hub.memory.entries()},
        "revisions": hub.revisions(),
        "events": [(event.at, event.kind) for event in hub.events(1000)],
    }


def story(world: World) -> tuple[Hub, list[tuple[datetime, dict[str, Any]]]]:
    """A hub that did one thing every ten seconds, and what it was after each."""
    hub = world.open("ann")
    daemon: list[Daemon] = []

    def work() -> None:
        (task,) = daemon[0].lease()
        daemon[0].report(task)

    steps = [
        lambda: hub.tasks.submit("echo", {"message": "x"}, id="one"),
        lambda: hub.locks.acquire("deploy", "ann", ttl=3600),
        lambda: hub.memory.set("color", "blue"),
        lambda: daemon.append(Daemon(hub, "w1")),
        work,
        lambda: hub.memory.set("color", "red"),
        lambda: hub.locks.release("deploy", "ann"),
        lambda: hub.memory.delete("color"),
        lambda: hub.tasks.submit("echo", {"message": "y"}, id="two"),
    ]
    seen = [(hub.now(), state(hub))]
    for step in steps:
        world.runtime.advance(10)
        step()
        seen.append((hub.now(), state(hub)))
    world.runtime.advance(10)
    return hub, seen


def test_each_moment_is_shown_exactly(both: World) -> None:
    """At the moment of a change it is there, a millisecond before it is not, and until the next nothing changes."""
    hub, seen = story(both)
    for at, expected in seen:
        for later in (0.0, 0.001, 9.998):
            past = hub.at(at + timedelta(seconds=later))
            assert at + timedelta(seconds=later) == past.now()
            assert expected == state(past)
    for (_, expected), (at, _) in pairwise(seen):
        assert expected == state(hub.at(at - timedelta(milliseconds=1)))


def test_each_revision_and_commit_is_shown_exactly(both: World) -> None:
    """A revision, or the id of a commit in any space, names the same state as the moment at which it was made."""
    hub, seen = story(both)
    for at, expected in seen:
        newest = max(expected["revisions"].values())
        assert expected == state(hub.at(newest))
        assert at == hub.at(newest).now()
        heads = hub.at(at).heads()
        space = max(heads, key=lambda one: expected["revisions"][one])
        assert expected == state(hub.at(heads[space]))
        assert expected == state(hub.at(heads[space][:10]))


def test_spaces_that_were_not_born_are_not_there(world: World) -> None:
    """A namespace written to later does not exist in the past."""
    hub, seen = story(world)
    assert {"fleet", "locks", "meta"} == set(hub.at(seen[0][0]).heads())
    assert [] == hub.at(seen[0][0]).memory.list()


def test_leases_count_from_the_moment_that_is_shown(world: World) -> None:
    """A lock that is over now was held then."""
    hub = world.open()
    hub.locks.acquire("deploy", "ann", ttl=60)
    then = hub.now()
    world.runtime.advance(120)
    assert not hub.locks.is_locked("deploy")
    assert hub.at(then).locks.is_locked("deploy")
    assert not hub.at(then + timedelta(seconds=90)).locks.is_locked("deploy")


def test_the_past_cannot_be_changed(world: World) -> None:
    """Every kind of write is refused and leaves no trace; the present goes on when the past is closed."""
    hub = world.open()
    hub.memory.set("color", "blue")
    before = hub.heads()
    with hub.at(hub.now()) as past:
        for write in (
            lambda: past.memory.set("color", "red"),
            lambda: past.locks.acquire("deploy", "ann"),
            lambda: past.tasks.submit("echo", {"message": "x"}),
            lambda: past.workers.register("w1"),
            lambda: past.config.set("locks.ttl", 60),
            lambda: past.audit.tool_call(AuditEntry(tool_name="echo")),
        ):
            with pytest.raises(Unsupported, match="the hub in the past is read only"):
                write()
    assert before == hub.heads()
    hub.memory.set("color", "red")


def test_a_past_has_a_past_of_its_own(world: World) -> None:
    """From a moment one can look further back, but not ahead."""
    hub, seen = story(world)
    past = hub.at(seen[3][0])
    assert seen[1][1] == state(past.at(seen[1][0]))
    with pytest.raises(UsageError, match="is in the future"):
        past.at(seen[5][0])


@pytest.mark.parametrize(
    ("when", "error", "text"),
    [
        (
            datetime.fromtimestamp(START - 1, UTC),
            NotFound,
            "there was no hub then: it was made at 2023-11-14T22:13:20.000Z",
        ),
        (datetime.fromtimestamp(START + 3600, UTC), UsageError, "2023-11-14T23:13:20.000Z is in the future"),
        (datetime(2023, 11, 14), UsageError, "has no time zone"),
        (5, NotFound, "there was no hub then: it was made at"),
        (2**52, UsageError, "the hub has no revision 4503599627370496 yet: its newest is 17"),
        ("0123abc", NotFound, "no space of the hub was ever at the commit '0123abc'"),
        ("01", NotFound, "no space of the hub was ever at the commit '01'"),
    ],
)
def test_a_moment_that_cannot_be_shown(hub: Hub, when: Any, error: type[Exception], text: str) -> None:
    """Before the hub, in the future, or nowhere: one sentence says so, with the earliest or latest there is."""
    with pytest.raises(error, match=text):
        hub.at(when)


def test_where_history_was_cut_the_earliest_moment_is_named(world: World) -> None:
    """A space whose older commits are gone is shown from its oldest commit on, and no sooner."""
    hub, seen = story(world)
    heads = [hub.at(at).heads()[FLEET] for at, _ in seen]
    oldest = heads.index(next(head for head in heads if head != heads[0]))
    world.forget(heads[0])
    hub = world.open()  # one that remembers nothing
    text = f"the history before {seen[oldest][0].isoformat(timespec='milliseconds').replace('+00:00', 'Z')} was removed"
    with pytest.raises(NotFound, match=text):
        hub.at(seen[0][0])
    assert seen[oldest][1]["tasks"] == state(hub.at(seen[oldest][0]))["tasks"]


def test_after_a_gc_the_past_begins_where_it_cut(both: World) -> None:
    """What gc left is shown as before, what it removed is refused, and the log says of which spaces it knows less."""
    hub, seen = story(both)
    (first, _), (middle, expected) = seen[0], seen[5]
    both.runtime.advance(3600)
    before = list(hub.audit.log(since=middle))
    report = hub.gc(both.runtime.now() - middle.timestamp())
    assert 0 < report.commits_cut
    fresh = both.open()
    assert expected["tasks"] == state(fresh.at(middle))["tasks"]
    with pytest.raises(NotFound, match="was removed: that is the earliest moment to look at"):
        fresh.at(first)
    found = fresh.audit.log()
    assert before == [event for event in found if event.at >= middle and event.kind != "history collected"]
    assert FLEET in found.cut


def test_a_past_of_an_older_layout_is_refused(world: World) -> None:
    """Indexes of an older schema would be read as empty: nothing is shown rather than something wrong."""
    hub = world.open()
    world.runtime.advance(10)
    old = world.put(FLEET, {"space.json": b'{"revision": 1, "schema": 1, "space": "fleet"}'})
    world.runtime.advance(10)
    hub.tasks.submit("echo", {"message": "x"})
    with pytest.raises(Unsupported, match="the space 'fleet' had schema 1 then"):
        hub.at(old)
    assert 1 == hub.at(hub.now()).tasks.counts()["queued"]


def test_two_things_in_one_transaction_are_seen_together(world: World) -> None:
    """A fenced write moves two spaces with one revision: no moment shows only one of them."""
    hub = world.open()
    lock = hub.locks.acquire("deploy", "ann")
    assert lock is not None
    world.runtime.advance(1)
    hub.memory.set("release", 1, fence=("deploy", lock.token))
    revision = hub.revision(GLOBAL)
    assert 1 == hub.at(revision).memory.get("release")
    assert hub.at(revision - 1).memory.get("release") is None


# -- people


def test_a_persons_commit_stands_where_its_time_puts_it(world: World) -> None:
    """An edit by hand is seen from its own time on, and never before the commit that it was made on."""
    hub = world.open()
    hub.memory.set("color", "blue")
    record = world.files(GLOBAL)[where("key", "color")]
    made, revision = hub.now(), hub.revision(GLOBAL)
    world.runtime.advance(10)
    by_hand = world.put(GLOBAL, {where("key", "color"): edited(record, value="green")})  # says that it is of 1970
    world.runtime.advance(10)
    hub.memory.set("other", 1)
    assert "green" == hub.at(made).memory.get("color")
    assert "blue" == hub.at(revision).memory.get("color")
    assert "green" == hub.at(by_hand).memory.get("color")
    assert hub.at(by_hand).memory.get("other") is None
    points = list(History(world.store(), hub.heads()[GLOBAL]).heads())
    assert [False, True, False] == [point.by_hand for point in points]
    assert points[2].at == points[1].at < points[0].at


def test_a_merge_by_hand_keeps_what_the_hub_was(world: World) -> None:
    """``git pull`` makes the hub's own line the second parent: the past follows it, and the log has every commit."""
    hub = world.open()
    hub.memory.set("color", "blue")
    base = world.store().heads()[GLOBAL]
    path = where("key", "color")
    aside = world.branch(base, {path: edited(world.files(GLOBAL)[path], value="aside")})
    world.runtime.advance(10)
    hub.memory.set("other", 1)
    own = world.store().heads()[GLOBAL]
    world.runtime.advance(10)
    world.set_head(GLOBAL, aside)
    merged = world.put(GLOBAL, {path: edited(world.files(GLOBAL)[path], value="merged")}, own)
    assert ("blue", 1) == (hub.at(own).memory.get("color"), hub.at(own).memory.get("other"))
    assert "merged" == hub.at(merged).memory.get("color")
    store = world.store()
    assert [merged, own, base] == [point.info.oid for point in History(store, merged).heads()]
    every = [point.info.oid for point in History(store, merged).every()]
    assert {merged, own, aside, base} == set(every)
    assert merged == every[0]
    assert base == every[-1]


def test_a_long_history_is_checked_once(world: World) -> None:
    """Stamps of 300 commits are found right in one walk, newest first, without a look at each commit's 64 parents."""
    hub = world.open()
    for number in range(300):
        world.runtime.advance(1)
        hub.memory.set("n", number)
    store = world.store()
    points = list(History(store, store.heads()[GLOBAL]).heads())
    assert 300 == len(points)
    assert sorted((point.revision for point in points), reverse=True) == [point.revision for point in points]
    assert all(stamp_of(store, point.info) is not None for point in points)
    assert 150 == hub.at(points[149].revision).memory.get("n")


def test_a_revision_ahead_of_the_clock_is_placed_by_the_clock(world: World) -> None:
    """Where revisions had to run ahead, because the clock was set back, commits keep the times they were made at."""
    hub = world.open()
    world.runtime.advance(7200)
    hub.memory.set("n", 1)
    world.runtime.jump_wall(-3600)
    hub.memory.set("n", 2)
    then = hub.now()
    world.runtime.advance(10)
    hub.memory.set("n", 3)
    assert 2 == hub.at(then + timedelta(seconds=1)).memory.get("n")


@pytest.mark.parametrize(
    ("message", "revision", "at"),
    [
        ("x", 100_250, 100.25),
        ("x", 105_000, 100.0),
        ("x", 99_000, 100.0),
        ('x\n\n- {"at": 100.125, "kind": "a"}\n- {"at": 100.5, "kind": "b"}\n', 100_900, 100.5),
        ('x\n\n- {"at": 7.5, "kind": "forged"}\n', 100_900, 100.9),
        ('x\n\n- {"at": ?, "kind": "broken"}\n', 100_900, 100.9),
    ],
)
def test_when_a_commit_was_made(message: str, revision: int, at: float) -> None:
    """The last event's time, else the revision's, as far as they agree with the commit's own second."""
    assert at == moment(CommitInfo("0" * 40, "0" * 40, (), "ann", 100, message), revision)
