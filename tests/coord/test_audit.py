"""``hub.audit.log`` and ``blame``: who did what, from every space, from people's commits and from tool calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ghcoord.coord.audit.blame import CUT, TEXT, Line
from ghcoord.coord.audit.log import AuditLog
from ghcoord.coord.audit.query import AuditEvent
from ghcoord.coord.layout import AUDIT, FLEET, LOCKS, META, memory_space
from ghcoord.errors import InvalidName, NotFound, UsageError
from ghcoord.hub import Hub
from ghcoord.model.event import AuditEntry
from ghcoord.store.base import CommitInfo, Oid
from ghcoord.store.wrappers import WrappedStore
from tests.coord.world import Daemon, World, edited, where
from tests.store.gitrepo import git

GLOBAL = memory_space("global")


def busy(world: World) -> tuple[Hub, Hub]:
    """Ann and Ben do one thing every ten seconds."""
    ann, ben = world.open("ann"), world.open("ben")
    for step in (
        lambda: ann.tasks.submit("echo", {"message": "x"}, id="one"),
        lambda: ben.locks.acquire("deploy", "ci-7"),
        lambda: ben.memory.set("color", "blue"),
        lambda: ann.memory.set("color", "red", namespace="team"),
        lambda: ann.audit.tool_call(AuditEntry(session_id="s1", user_id="u1", tool_name="fs.read")),
        lambda: ann.workers.register("w1"),
        lambda: ben.tasks.cancel("one", reason="not needed"),
    ):
        world.runtime.advance(10)
        step()
    world.runtime.advance(10)
    return ann, ben


def kinds(events: Iterator[AuditEvent]) -> list[str]:
    return [event.kind for event in events]


# -- the log


def test_everything_is_told_once_newest_first(both: World) -> None:
    """Events of every space and recorded calls come merged by time, each with its commit, revision and author."""
    hub, _ = busy(both)
    events = list(hub.audit.log())
    assert [
        ("task cancelled", FLEET, "ben"),
        ("worker registered", FLEET, "ann"),
        ("tool call", AUDIT, "ann"),
        ("memory set", "memory/team", "ann"),
        ("memory set", GLOBAL, "ben"),
        ("lock acquired", LOCKS, "ben"),
        ("task submitted", FLEET, "ann"),
        ("hub created", META, "ann"),
    ] == [(event.kind, event.space, event.by) for event in events]
    assert sorted((event.at for event in events), reverse=True) == [event.at for event in events]
    store = both.store()
    for event in events:
        assert event.commit is not None
        assert event.author == store.commit_info(event.commit).author
    assert hub.revision(FLEET) == events[0].revision
    assert events[0].commit == hub.heads()[FLEET]
    assert {"task": "one", "by": "ben", "reason": "not needed"} == events[0].fields


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"task": "one"}, ["task cancelled", "task submitted"]),
        ({"worker": "w1"}, ["worker registered"]),
        ({"worker": "ci-7"}, ["lock acquired"]),
        ({"lock": "deploy"}, ["lock acquired"]),
        ({"key": "color"}, ["memory set", "memory set"]),
        ({"key": "color", "namespace": "team"}, ["memory set"]),
        ({"namespace": "team"}, ["memory set"]),
        ({"namespace": "nothing"}, []),
        ({"actor": "ben"}, ["task cancelled", "memory set", "lock acquired"]),
        ({"actor": "ben", "kind": "memory"}, ["memory set"]),
        ({"kind": "task"}, ["task cancelled", "task submitted"]),
        ({"kind": "*ed"}, ["task cancelled", "worker registered", "lock acquired", "task submitted", "hub created"]),
        ({"kind": "tool call"}, ["tool call"]),
        ({"session": "s1"}, ["tool call"]),
        ({"session": "s1", "user": "u1", "tool": "fs.read"}, ["tool call"]),
        ({"session": "s1", "user": "u2"}, []),
        ({"tool": "echo"}, ["task submitted"]),
        ({"task": "two"}, []),
        ({"limit": 2}, ["task cancelled", "worker registered"]),
        ({"limit": 2, "oldest_first": True}, ["hub created", "task submitted"]),
        ({"kind": "task", "oldest_first": True}, ["task submitted", "task cancelled"]),
    ],
)
def test_filters(world: World, filters: dict[str, Any], expected: list[str]) -> None:
    """Each filter alone and several together leave exactly what they name."""
    hub, _ = busy(world)
    assert expected == kinds(hub.audit.log(**filters))


def test_times_and_revisions_bound_the_log(world: World) -> None:
    """``since`` and ``until`` are inclusive, as times and as revisions."""
    hub, _ = busy(world)
    events = list(hub.audit.log())
    for first in range(len(events)):
        for last in range(first, len(events)):
            wanted = events[first : last + 1]
            assert wanted == list(hub.audit.log(since=events[last].at, until=events[first].at))
            assert wanted == list(hub.audit.log(since=events[last].revision, until=events[first].revision))
    assert events == list(hub.audit.log(since=events[-1].at - timedelta(days=1)))
    assert [] == list(hub.audit.log(since=hub.now() + timedelta(days=1)))
    assert [] == list(hub.audit.log(until=events[-1].at - timedelta(milliseconds=1)))


@pytest.mark.parametrize(
    ("filters", "error"),
    [
        ({"task": "../x"}, InvalidName),
        ({"namespace": ""}, InvalidName),
        ({"colour": "red"}, UsageError),
        ({"limit": 0}, UsageError),
    ],
)
def test_a_filter_that_nothing_can_pass_is_refused(hub: Hub, filters: dict[str, Any], error: type[Exception]) -> None:
    """A name that no record can have, an unknown filter and an empty limit are mistakes, not empty answers."""
    with pytest.raises(error):
        hub.audit.log(**filters)


def test_renewals_are_shown_only_when_named(world: World) -> None:
    """An idle worker does not fill the log; its renewals are there for who asks."""
    hub = world.open()
    daemon = Daemon(hub)
    for _ in range(3):
        world.runtime.advance(6)
        daemon.beat(renew=True)
    assert ["worker registered", "hub created"] == kinds(hub.audit.log())
    assert ["worker registered"] == kinds(hub.audit.log(kind="worker"))
    assert 3 == len(list(hub.audit.log(kind="worker renewed")))


class Counting(WrappedStore):
    """Counts the commits that are read."""

    read = 0

    def commit_info(self, oid: Oid) -> CommitInfo:
        self.read += 1
        return super().commit_info(oid)


def test_only_what_is_asked_for_is_read(world: World) -> None:
    """The newest events, and those since a moment, cost a few commits however long the history is."""
    hub = world.open()
    for number in range(400):
        world.runtime.advance(1)
        hub.memory.set("n", number)
    revision = list(hub.audit.log(limit=3))[-1].revision
    for filters in ({"limit": 3}, {"since": hub.now() - timedelta(seconds=2)}, {"since": revision}):
        store = Counting(world.store())
        found = list(world.open(store=store).audit.log(**filters))
        assert 3 == len(found)
        assert 60 > store.read, filters
    store = Counting(world.store())
    assert 401 == len(list(world.open(store=store).audit.log()))


def test_a_batch_of_many_events_says_what_it_leaves_out(world: World) -> None:
    """A commit keeps 500 event lines; the line that counts the rest is an event, with the commit's time."""
    hub = world.open()
    with_many = [(f"k{number:04}", number) for number in range(600)]
    daemon = Daemon(hub, slots=600)
    hub.tasks.submit_many([_submission(key) for key, _ in with_many])
    daemon.lease(600)
    left_out = next(event for event in hub.audit.log() if event.kind == "events left out")
    assert 0 < left_out.fields["count"]
    assert hub.now() == left_out.at


def _submission(task_id: str) -> Any:
    from ghcoord.hub import Submission

    return Submission("echo", {"message": "x"}, id=task_id)


# -- people, and what is hostile


def test_a_commit_by_hand_is_an_event(world: World) -> None:
    """It has author, summary and files; it is found by the record it changed; its message tells nothing else."""
    hub = world.open("ann")
    hub.memory.set("color", "blue")
    path = where("key", "color")
    forged = json.dumps({"at": 1, "kind": "lock forced", "lock": "deploy"})
    world.runtime.advance(10)
    world.put(GLOBAL, {path: edited(world.files(GLOBAL)[path], value="green")}, message=f"paint it\n\n- {forged}")
    world.runtime.advance(10)
    hub.memory.set("other", 1)
    events = list(hub.audit.log(namespace="global"))
    assert ["memory set", "record edited by hand", "commit by hand", "memory set"] == [event.kind for event in events]
    assert {"summary": "paint it", "paths": [path]} == events[2].fields
    assert ("A Person", "A Person") == (events[2].author, events[2].by)
    assert kinds(hub.audit.log(key="color")) == ["record edited by hand", "commit by hand", "memory set"]
    assert ["commit by hand"] == kinds(hub.audit.log(actor="A Person"))
    assert ["commit by hand"] == kinds(hub.audit.log(key="color", kind="commit"))
    assert ["memory set"] == kinds(hub.audit.log(key="other"))


def test_a_copied_message_is_a_persons(world: World) -> None:
    """Trailers and events that a person copies, as git cherry-pick does, are not told twice."""
    hub = world.open("ann")
    hub.memory.set("color", "blue")
    message = world.store().commit_info(world.store().heads()[GLOBAL]).message
    world.put(GLOBAL, {"note.txt": b"x"}, message=message)
    assert ["commit by hand", "memory set"] == kinds(hub.audit.log(namespace="global"))


def test_hostile_lines_and_files_are_skipped(world: World) -> None:
    """What cannot be an event, in a commit or in a file of calls, is left out; what can be is shown as it is."""
    hub = world.open("ann")
    hub.audit.tool_call(AuditEntry(tool_name="echo"))
    hub.audit.flush()
    [path] = [path for path in world.files(AUDIT) if path.startswith("calls/")]
    good = json.dumps({"at": hub.now().timestamp(), "kind": "tool call", "tool_name": "x", "session_id": "h"})
    bad = ["", "{", "[]", "null", '{"at": 1}', '{"kind": "x"}', '{"at": NaN, "kind": "x"}', '{"at": 1e999, "kind": 1}']
    bad += [f'{{"at": 1, "kind": "tool call", "tool_name": {"[" * 900 + "]" * 900}}}']
    bad += [
        '{"at": -1, "kind": "x"}',
        '{"at": "soon", "kind": "x"}',
        "[" * 100_000,
        '{"at": 1, "kind": "x", "n": 1e999}',
    ]
    folder = path.rpartition("/")[0]
    world.put(
        AUDIT,
        {
            path.replace(".jsonl", "x.jsonl"): b"junk",
            path[:-10] + "zzzz.jsonl": ("{broken head\n" + "\n".join([*bad, good])).encode() + b"\n\xff\xfe\n",
            "calls/2023/11/14/22/13/9999999999999999-abcd.jsonl": b"junk",
            f"{folder}/1-abcd.jsonl": b"junk",
            "calls/20/hostile": b"junk",
            "calls/2023/11/99/00/00/1700000000000-abcd.jsonl": good.encode(),
        },
    )
    found = list(hub.audit.log(kind="tool"))
    assert ["echo", "x"] == sorted(event.fields["tool_name"] for event in found)
    assert ["x"] == [event.fields["tool_name"] for event in hub.audit.log(session="h")]


def test_where_history_was_cut_the_log_ends_and_says_so(world: World) -> None:
    """Older commits that are gone end one space's part; ``cut`` names the space and the time once it was reached."""
    hub, _ = busy(world)
    oldest = next(event for event in hub.audit.log(kind="task submitted", limit=1))
    created = world.store().commit_info(oldest.commit or "").parents[0]
    world.forget(created)
    fresh = world.open()
    found = fresh.audit.log()
    assert {} == found.cut
    assert len(list(found)) == len(list(hub.audit.log()))
    assert {FLEET: oldest.at.timestamp()} == found.cut
    world.forget(oldest.commit or "")
    again = world.open().audit.log(task="one")
    assert ["task cancelled"] == kinds(again)
    assert [FLEET] == list(again.cut)


# -- following


def test_following_tells_what_is_new(world: World) -> None:
    """After the last ones each new event comes once, in order: of spaces that are born, calls and people too."""
    hub = world.open("ann", poll=1.0)
    hub.memory.set("color", "blue")
    stopped = world.runtime.event()
    found = hub.audit.follow(last=1, stopped=stopped)
    assert "memory set" == next(found).kind
    world.runtime.advance(5)
    hub.locks.acquire("deploy", "ann")
    hub.memory.set("new", 1, namespace="team")
    hub.audit.tool_call(AuditEntry(tool_name="echo"))
    hub.audit.flush()
    path = where("key", "color")
    world.put(GLOBAL, {path: edited(world.files(GLOBAL)[path], value="green")})
    assert {"lock acquired", "memory set", "tool call", "commit by hand"} == set(kinds(islice(found, 4)))
    hub.memory.set("other", 1)
    assert ["record edited by hand", "memory set"] == kinds(islice(found, 2))
    stopped.set()
    assert [] == list(found)


def test_following_with_filters(world: World) -> None:
    """Filters hold for what comes, too; without ``last`` everything since a moment is told first."""
    hub = world.open("ann", poll=1.0)
    hub.locks.acquire("deploy", "ann")
    world.runtime.advance(5)
    then = hub.now()
    hub.memory.set("color", "blue")
    found = hub.audit.follow(last=None, since=then, actor="ann")
    assert "memory set" == next(found).kind
    world.open("ben").memory.set("color", "red")
    hub.locks.release("deploy", "ann")
    assert "lock released" == next(found).kind


# -- blame


def told(lines: tuple[Line, ...]) -> dict[str, tuple[Any, str, str]]:
    return {line.field: (line.value, line.origin.by, line.origin.kind) for line in lines}


def test_each_field_is_traced_to_who_gave_it_its_value(both: World) -> None:
    """Two actors change a value and its author; what never changed is of the first, what changed back of the last."""
    ann, ben = both.open("ann"), both.open("ben")
    ann.memory.set("color", {"hex": "#00ff00", "name": "green", "deep": {"a": 1}})
    first = ann.now()
    both.runtime.advance(10)
    ben.memory.set("color", {"hex": "#ff0000", "name": "green", "deep": {"a": 1}})
    second = ann.now()
    ben.memory.set("other", 1)
    found = ann.audit.blame("key", "color")
    assert found.removed is None
    expected = {
        "key": ("color", "ann", "memory set"),
        "value.hex": ("#ff0000", "ben", "memory set"),
        "value.name": ("green", "ann", "memory set"),
        "value.deep": ({"a": 1}, "ann", "memory set"),
        "updated_by": ("ben", "ben", "memory set"),
    }
    assert expected == {field: one for field, one in told(found.lines).items() if field in expected}
    at = {line.field: line.origin.at for line in found.lines}
    assert (first, second) == (at["value.name"], at["value.hex"])
    both.runtime.advance(10)
    ann.memory.set("color", {"hex": "#00ff00", "name": "green", "deep": {"a": 1}})
    assert ("#00ff00", "ann", "memory set") == told(ann.audit.blame("key", "color").lines)["value.hex"]


def test_a_task_s_state_is_traced_to_its_worker(world: World) -> None:
    """Submitted by one, finished by another: each field is of the event that made it so."""
    ann, ben = world.open("ann"), world.open("ben")
    ann.tasks.submit("echo", {"message": "x"}, id="one")
    world.runtime.advance(10)
    daemon = Daemon(ben)
    (task,) = daemon.lease()
    world.runtime.advance(10)
    daemon.report(task)
    found = told(ann.audit.blame("task", "one").lines)
    assert ("x", "ann", "task submitted") == found["args.message"]
    assert (1, "ben", "task leased") == found["attempt"]
    assert ("succeeded", "ben", "task succeeded") == found["state"]
    assert (True, "ben", "task succeeded") == found["result.success"]


def test_every_kind_of_record_has_blame(world: World) -> None:
    """Locks, workers and schedules are traced as well, and an unknown kind is refused by name."""
    hub = world.open("ann")
    hub.locks.acquire("deploy", "ci-7")
    hub.workers.register("w1")
    assert {"lock acquired"} == {line.origin.kind for line in hub.audit.blame("lock", "deploy").lines}
    assert {"worker registered"} == {line.origin.kind for line in hub.audit.blame("worker", "w1").lines}
    hub.schedules.put("nightly", "@daily", "echo", {"message": "x"})
    world.runtime.advance(10)
    world.open("ben").schedules.pause("nightly")
    found = told(hub.audit.blame("schedule", "nightly").lines)
    assert ("nightly", "ann") == found["name"][:2]
    assert (True, "ben") == found["paused"][:2]
    assert 2 == len(list(hub.audit.log(schedule="nightly")))
    with pytest.raises(UsageError, match="no record of a 'space'"):
        hub.audit.blame("space", "x")


def test_a_removed_record_shows_its_last_state_and_who_removed_it(world: World) -> None:
    """What is gone is shown as it was, with the commit that removed it; what came again counts from then."""
    ann, ben = world.open("ann"), world.open("ben")
    ann.memory.set("color", "blue")
    world.runtime.advance(10)
    ben.memory.delete("color")
    world.runtime.advance(10)
    ann.memory.set("other", 1)
    found = ann.audit.blame("key", "color")
    assert found.removed is not None
    assert ("ben", "memory deleted") == (found.removed.by, found.removed.kind)
    assert ("blue", "ann", "memory set") == told(found.lines)["value"]
    ben.memory.set("color", "blue")
    again = ann.audit.blame("key", "color")
    assert again.removed is None
    assert {"ben"} == {line.origin.by for line in again.lines}


def test_what_never_was_is_not_found(world: World) -> None:
    """A name that the history knows nothing of, and a space that is not there."""
    hub = world.open()
    with pytest.raises(NotFound, match="there is no task 'one', and history knows of none"):
        hub.audit.blame("task", "one")
    with pytest.raises(NotFound, match="the space 'memory/none' does not exist"):
        hub.audit.blame("key", "color", "none")


def test_an_edit_by_hand_is_the_persons(tmp_path: Path) -> None:
    """A real clone, edit and push: the value is of the person who made it, what ghcoord restamped of ghcoord."""
    world = World(tmp_path / "hub.git")
    hub = world.open("ann")
    hub.memory.set("color", "blue")
    git(tmp_path, "clone", "-q", "--branch", "ghcoord/memory/global", "hub.git", "edit")
    file = tmp_path / "edit" / where("key", "color")
    file.write_text(file.read_text().replace("blue", "green"))
    git(tmp_path / "edit", "commit", "-qam", "Paint it green")
    git(tmp_path / "edit", "push", "-q")
    found = told(hub.audit.blame("key", "color").lines)
    assert ("green", "A Person", "commit by hand") == found["value"]
    assert ("color", "ann", "memory set") == found["key"]
    world.runtime.advance(10)
    hub.memory.set("other", 1)
    after = told(hub.audit.blame("key", "color").lines)
    assert ("green", "A Person", "commit by hand") == after["value"]
    assert "record edited by hand" == after["revision"][2]
    (line,) = [line for line in hub.audit.blame("key", "color").lines if line.field == "value"]
    assert "Paint it green" == line.origin.summary
    world.close()


def test_a_merge_is_traced_to_the_side_that_made_the_edit(world: World) -> None:
    """What a person edited aside and merged is of the edit, not of the merge."""
    hub = world.open("ann")
    hub.memory.set("color", "blue")
    base = world.store().heads()[GLOBAL]
    path = where("key", "color")
    green = edited(world.files(GLOBAL)[path], value="green")
    aside = world.branch(base, {path: green})
    hub.memory.set("other", 1)
    world.put(GLOBAL, {path: green}, aside, message="merge")
    (line,) = [line for line in hub.audit.blame("key", "color").lines if line.field == "value"]
    assert (aside, "aside") == (line.origin.commit, line.origin.summary)


def test_a_broken_version_in_between_is_stepped_over(world: World) -> None:
    """A record that a person broke and ghcoord restored keeps its origins; one still broken shows that."""
    hub = world.open("ann")
    hub.memory.set("color", "blue")
    path = where("key", "color")
    world.runtime.advance(10)
    world.put(GLOBAL, {path: b"{broken"})
    assert {TEXT: ("cannot be read", "A Person", "commit by hand")} == told(hub.audit.blame("key", "color").lines)
    world.runtime.advance(10)
    hub.memory.set("other", 1)
    assert ("blue", "ann", "memory set") == told(hub.audit.blame("key", "color").lines)["value"]


def test_what_is_older_than_the_history_is_not_attributed(world: World) -> None:
    """Where commits were removed nobody is blamed; the time is the latest that it can have been."""
    hub = world.open("ann")
    hub.memory.set("color", {"a": 1, "b": 1})
    first = world.store().heads()[GLOBAL]
    world.runtime.advance(10)
    hub.memory.set("other", 1)
    oldest = hub.now()
    world.runtime.advance(10)
    hub.memory.set("color", {"a": 1, "b": 2})
    world.forget(first)
    found = {line.field: line.origin for line in world.open().audit.blame("key", "color").lines}
    assert (CUT, None, oldest) == (found["value.a"].kind, found["value.a"].commit, found["value.a"].at)
    assert ("memory set", "ann") == (found["value.b"].kind, found["value.b"].by)
    with pytest.raises(NotFound, match=r"history since 2023-11-14T22:13:30.000Z knows of none"):
        world.open().audit.blame("key", "nothing")


def test_the_log_is_an_iterator(hub: Hub) -> None:
    """It can be walked with ``next`` and be left at any point."""
    found = hub.audit.log()
    assert isinstance(found, AuditLog)
    assert "hub created" == next(found).kind
    assert [] == list(found)
