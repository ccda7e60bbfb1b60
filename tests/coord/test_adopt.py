"""What people commit by hand: taken over, or set aside with a reason, and nothing else stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import pytest

from ghcoord.coord.care.adopt import MAX_ASIDE
from ghcoord.coord.tasks.tasks import Submission
from ghcoord.errors import GhcoordError, HeadRegressed, LeaseLost, NotFound, RevisionMismatch
from ghcoord.hub import Hub
from ghcoord.model.codec import MAX_RECORD
from ghcoord.model.task import State
from ghcoord.store.heads import revision_of
from tests.coord.world import Daemon, World, edited, kinds, token_of, where

SPACE = "memory/global"


def filled(world: World) -> tuple[Hub, Daemon]:
    """A hub with three tasks, a worker that has one of them, a lock and a key."""
    hub = world.open()
    hub.tasks.submit_many([Submission("echo", {"n": n}, id=f"t{n}") for n in range(3)])
    daemon = Daemon(hub)
    daemon.lease()
    hub.locks.acquire("x")
    hub.memory.set("k", 1)
    world.runtime.advance(1)
    return hub, daemon


def everything_works(world: World, hub: Hub, daemon: Daemon) -> None:
    """Each part of the hub still does its work."""
    world.runtime.advance(1)
    name = f"probe-{world.runtime.randbits(40)}"
    hub.tasks.submit("echo", id=name, priority=9)
    daemon.beat(renew=True)
    (task,) = daemon.lease()
    assert name == task.id
    daemon.report(task)
    assert State.SUCCEEDED is world.check_index()[name].state
    assert hub.locks.acquire(name) is not None
    hub.memory.set(name, 1)
    assert 1 == hub.memory.get(name)
    for look in (hub.tasks.list, hub.locks.list, hub.memory.list, hub.workers.list, hub.events, hub.memory.namespaces):
        look()


def test_an_edited_task_is_taken_over_and_indexed(both: World) -> None:
    """A changed priority changes the order; revision and history go on."""
    hub, daemon = filled(both)
    before = hub.revision()
    path = where("task", "t2")
    both.put("fleet", {path: edited(both.files("fleet")[path], priority=9, note="by hand")})
    both.runtime.advance(1)
    assert ["t2"] == [task.id for task in daemon.lease()]
    assert "by hand" in both.files("fleet")[path].decode()
    assert hub.revision() > before
    assert [] == hub.broken()
    everything_works(both, hub, daemon)
    assert any(event.kind == "record edited by hand" and event.fields["path"] == path for event in hub.events(50))


def test_a_task_written_by_hand_runs(world: World) -> None:
    """A person can submit with an editor and git."""
    _, daemon = filled(world)
    record = {"id": "mine", "tool": "echo", "created_at": "2026-01-01T00:00:00Z", "priority": 7}
    world.put("fleet", {where("task", "mine"): json.dumps(record).encode()})
    assert ["mine"] == [task.id for task in daemon.lease()]
    world.check_index()


def test_an_edited_state_is_the_truth(world: World) -> None:
    """A lease taken away by hand is lost to its holder; counts and index follow."""
    hub, daemon = filled(world)
    held = world.check_index()["t0"]
    path = where("task", "t0")
    record = json.loads(world.files("fleet")[path])
    del record["lease"]
    world.put("fleet", {path: json.dumps({**record, "state": "queued"}).encode()})
    assert ["t0"] == list(daemon.report(held).refused)
    assert {"queued": 3} == {state: n for state, n in hub.tasks.counts().items() if n}
    world.check_index()


@pytest.mark.parametrize("kind", ["task", "worker", "lock", "key"])
def test_a_deleted_record_is_gone(both: World, kind: str) -> None:
    """Deleting a file is deleting the thing: whoever held it learns, everybody else goes on."""
    hub, daemon = filled(both)
    held, lock = both.check_index()["t0"], hub.locks.get("x")
    assert lock is not None
    space, name = {"task": ("fleet", "t0"), "worker": ("fleet", "w1"), "lock": ("locks", "x"), "key": (SPACE, "k")}[
        kind
    ]
    both.put(space, {where(kind, name): None})
    if kind == "task":
        assert "no longer exists" in daemon.report(held).refused["t0"]
        assert {"queued": 2} == {state: n for state, n in hub.tasks.counts().items() if n}
    elif kind == "worker":
        assert "no longer registered" in daemon.beat(renew=True).lost
        daemon = Daemon(hub)
    elif kind == "lock":
        with pytest.raises(LeaseLost):
            hub.locks.renew("x", "me", lock.token)
        again = hub.locks.acquire("x")
        assert again is not None
        assert again.token > lock.token
    else:
        assert None is hub.memory.entry("k")
        hub.memory.set("k", 2, if_revision=0)
    if kind != "worker":
        assert "record deleted by hand" in kinds(hub) or space == SPACE
    everything_works(both, hub, daemon)


BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "not JSON": lambda record: b"{broken",
    "conflict markers": lambda record: b"<<<<<<< HEAD\n" + record + b"=======\n{}\n>>>>>>> b\n",
    "empty": lambda record: b"",
    "binary": lambda record: bytes(range(256)),
    "a list": lambda record: b"[]",
    "wrong type": lambda record: edited(record, ttl="x", state=5, revision="x", priority="high", grants=7),
    "wrong name": lambda record: edited(record, id="other", name="other", key="other", lock="other"),
    "bad name": lambda record: edited(record, id="../x", name="a//b", key="..", lock=""),
    "newer": lambda record: edited(record, format=99),
    "huge": lambda record: edited(record, note="x" * MAX_RECORD),
    "hard to keep": lambda record: edited(record, note="x" * (MAX_RECORD - 5000)),
    "NaN": lambda record: edited(record, note=float("nan")),
    "deep": lambda record: record.rstrip()[:-1] + b',"note":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "surrogate": lambda record: record.rstrip()[:-1] + b',"note":"\\ud800"}',
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("kind", ["task", "worker", "lock", "key"])
def test_a_broken_record_is_set_aside_and_the_last_good_one_restored(world: World, kind: str, how: str) -> None:
    """Whatever is wrong with it: reported with the reason, kept in ``broken/``, and work goes on with the old one."""
    hub, daemon = filled(world)
    space, name = {"task": ("fleet", "t0"), "worker": ("fleet", "w1"), "lock": ("locks", "x"), "key": (SPACE, "k")}[
        kind
    ]
    path = where(kind, name)
    good = world.files(space)[path]
    bad = BREAKS[how](good)
    world.put(space, {path: bad})
    if how != "hard to keep":
        (report,) = hub.broken()
        assert (space, path, "in place") == (report["space"], report["path"], report["state"])
        assert report["reason"]
    everything_works(world, hub, daemon)
    (report,) = hub.broken()
    assert (space, path, "set aside", True) == (
        report["space"],
        report["path"],
        report["state"],
        report["restored"],
    )
    files = world.files(space)
    assert bad[:MAX_ASIDE] == files[report["aside"]]
    restored = json.loads(files[path])
    assert name == restored[{"task": "id", "worker": "id", "lock": "name", "key": "key"}[kind]]
    assert "note" not in restored
    assert {"t0", "t1", "t2"} <= set(world.check_index())
    if space != SPACE:
        assert "broken record set aside" in kinds(hub)


def test_a_new_broken_record_is_only_set_aside(world: World) -> None:
    """There is nothing to restore."""
    hub, daemon = filled(world)
    world.put("locks", {where("lock", "new"): b"{"})
    everything_works(world, hub, daemon)
    (report,) = hub.broken()
    assert not report["restored"]
    assert None is hub.locks.get("new")
    hub.locks.acquire("new")


def test_strays_stop_nothing(both: World) -> None:
    """Files with no place in the layout, odd names, and a directory where a record was or the other way round."""
    hub, daemon = filled(both)
    both.put(
        "fleet",
        {
            "NOTES.md": b"hello",
            "tasks/readme": b"x",
            "tasks/zz/zz/../x".replace("..", "dots"): b"{}",
            f"{where('task', 't1')}/inside": b"x",
            "index/ready/echo/9/000000/000/000-bad name!": b"{}\n",
            "index/backing-off/zzz/yyy/xx/vvv-t1": b"{}\n",
            "index/backing-off/0000000/000/00/000-no such": b"{}\n",
            "index/leased/nobody/00/t9": b"{}\n",
            "index/ended/dead/000000/00/00-..": b"{}\n",
            "broken/mine.reason.json": b"[[[",
        },
    )
    for state in State:
        hub.tasks.list(state)
    hub.workers.tend()
    everything_works(both, hub, daemon)
    assert b"hello" == both.files("fleet")["NOTES.md"]
    assert {"t0", "t2"} <= set(both.check_index())
    both.put("locks", {"locks": b"a file"})
    both.runtime.advance(1)
    assert hub.locks.acquire("after") is not None


def test_names_that_are_no_text_stop_nothing(world: World) -> None:
    """A file name that is not UTF-8, where records lie."""
    hub, daemon = filled(world)
    for space, folder in (("fleet", "tasks"), ("locks", "locks"), (SPACE, "keys")):
        world.put(space, {f"{folder}/\udcff\udcfe.json": b"{}"})
    assert 3 == len(hub.broken())
    everything_works(world, hub, daemon)
    reports = hub.broken()
    assert 3 == len(reports)
    assert all(str(value).encode() for report in reports for value in report.values()), "they can be printed"


def test_links_are_left_alone(world: World) -> None:
    """A symbolic link in the index or among the records is not followed and stops nothing."""
    hub, daemon = filled(world)
    world.symlink("fleet", "index/ready/echo/0/000000/00/00-bad name!", "/etc/passwd")
    world.symlink("fleet", "tasks/00/00/link.json", "/etc/passwd")
    assert 3 == len(hub.tasks.list())
    world.runtime.advance(1)
    hub.tasks.submit("echo", id="t9", priority=9)
    assert ["t9"] == [task.id for task in daemon.lease()]


@pytest.mark.parametrize(
    "broken", [None, b"{", b"[]", b'{"revision": "x"}', b'{"revision": 1}', b'{"revision": 1e999}']
)
def test_a_broken_root_record_is_made_anew(both: World, broken: bytes | None) -> None:
    """Revisions go on from the history: no token repeats."""
    hub, daemon = filled(both)
    lock = hub.locks.get("x")
    assert lock is not None
    both.put("locks", {"space.json": broken})
    assert hub.revision("locks") >= lock.token
    hub.locks.release("x", "me")
    again = hub.locks.acquire("x")
    assert again is not None
    assert again.token > lock.token
    store = both.store()
    root = json.loads(both.files("locks")["space.json"])
    assert root["revision"] == revision_of(store, "locks", store.heads()["locks"])
    everything_works(both, hub, daemon)


@pytest.mark.parametrize(
    "content",
    [None, b"{", b"5", b'{"counts": {"queued": 77, "odd": 1}, "sequence": 5}', b'{"sequence": 1e999}', b"[" * 5000],
)
def test_a_broken_queue_record_is_counted_anew(world: World, content: bytes | None) -> None:
    """Counts and the next place follow from the tasks."""
    hub, daemon = filled(world)
    world.put("fleet", {"queue.json": content})
    hub.tasks.counts()
    world.runtime.advance(1)
    daemon.beat(renew=True)
    world.check_index()
    assert {"leased": 1, "queued": 2} == {state: n for state, n in hub.tasks.counts().items() if n}
    everything_works(world, hub, daemon)


def test_a_damaged_index_is_rebuilt(both: World) -> None:
    """Entries deleted, added and doubled by hand; the next transaction puts them right."""
    _, daemon = filled(both)
    index = [path for path in both.files("fleet") if path.startswith("index/")]
    both.put("fleet", {**dict.fromkeys(index), "index/ready/echo/0/000000/00/05-t1": b"{}\n", "index/x": b"?"})
    daemon.beat(renew=True)
    tasks = both.check_index()
    assert {"t0": State.LEASED, "t1": State.QUEUED, "t2": State.QUEUED} == {k: t.state for k, t in tasks.items()}
    assert {"t0": token_of(tasks["t0"])} == daemon.beat().held


def test_merges_and_several_commits_are_taken_over_together(both: World) -> None:
    """A person's merge of a branch with edits, on top of further commits: all of it is adopted."""
    hub, daemon = filled(both)
    base = both.snapshot("fleet").head
    path1, path2 = where("task", "t1"), where("task", "t2")
    files = both.files("fleet")
    side = both.branch(base, {path1: edited(files[path1], priority=8)})
    both.put("fleet", {path2: edited(files[path2], priority=9)})
    both.put("fleet", {path1: edited(files[path1], priority=8)}, side, message="Merge branch 'side'")
    before = hub.revision()
    both.runtime.advance(1)
    assert ["t2", "t1"] == [task.id for task in daemon.lease(2)]
    assert hub.revision() > before
    everything_works(both, hub, daemon)


def test_a_value_edited_by_hand_gets_a_revision_of_its_own(both: World) -> None:
    """Compare-and-set against what was read before the edit loses: the edit is not overwritten unseen."""
    hub = both.open()
    entry = hub.memory.set("k", 1)
    path = where("key", "k")
    both.runtime.advance(1)
    both.put(SPACE, {path: edited(both.files(SPACE)[path], value="by hand")})
    assert "by hand" == hub.memory.get("k")
    with pytest.raises(RevisionMismatch) as caught:
        hub.memory.set("k", 2, if_revision=entry.revision)
    assert caught.value.actual > entry.revision
    assert "by hand" == hub.memory.get("k")
    hub.memory.set("other", 1)
    adopted = hub.memory.entry("k")
    assert adopted is not None
    assert ("by hand", True) == (adopted.value, adopted.revision > entry.revision)
    hub.memory.set("k", 3, if_revision=adopted.revision)


def test_edits_of_several_spaces_do_not_mix(world: World) -> None:
    """A transaction over two spaces adopts what was done to both."""
    hub, _ = filled(world)
    world.put("locks", {where("lock", "x"): b"{"})
    world.put("fleet", {where("task", "t1"): b"{"})
    world.runtime.advance(100)
    hub.workers.recover("w1")
    assert ["fleet", "locks"] == sorted(report["space"] for report in hub.broken())
    assert {report["state"] for report in hub.broken()} == {"set aside"}
    world.check_index()


def test_a_rewound_or_deleted_branch_stops_writes_until_a_person_says_so(both: World) -> None:
    """Going back would repeat tokens: refused, explained, and accepted only by ``adopt_history``."""
    hub, daemon = filled(both)
    old = both.snapshot("fleet").head
    hub.tasks.submit("echo", id="t9")
    both.set_head("fleet", old)
    for call in (lambda: hub.tasks.submit("echo"), lambda: daemon.beat(renew=True)):
        with pytest.raises(HeadRegressed, match="doctor --adopt"):
            call()
    assert "went back" in (hub.check_history() or "")
    assert hub.locks.acquire("other") is not None, "the other spaces go on"
    hub.adopt_history()
    assert None is hub.check_history()
    both.runtime.advance(1)
    assert {"t0", "t1", "t2"} == set(both.check_index())
    everything_works(both, hub, daemon)
    both.set_head(SPACE, None)
    with pytest.raises(HeadRegressed, match="vanished"):
        hub.memory.set("k", 1)
    hub.adopt_history()
    hub.memory.set("k", 1)


def test_a_later_process_remembers_what_was_seen(both: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a state folder, a branch that went back between two runs is noticed too."""
    state = tmp_path_factory.mktemp("state")
    first = both.open(state=state)
    first.memory.set("k", 1)
    old = both.snapshot(SPACE).head
    first.memory.set("k", 2)
    first.close()
    both.set_head(SPACE, old)
    second = both.open(state=state)
    with pytest.raises(HeadRegressed):
        second.memory.set("k", 3)
    second.adopt_history()
    second.memory.set("k", 3)
    second.close()
    both.open(state=state).memory.set("k", 4)


def test_everything_deleted_is_an_empty_hub_with_its_revisions(world: World) -> None:
    """All files of the fleet removed in a commit: workers are told, tasks are gone, tokens still grow."""
    hub, daemon = filled(world)
    before = hub.revision()
    world.put("fleet", dict.fromkeys(world.files("fleet")))
    assert "no longer registered" in daemon.beat(renew=True).lost
    assert {} == {state: n for state, n in hub.tasks.counts().items() if n}
    assert Daemon(hub).token > before
    world.check_index()


def test_nothing_that_people_write_raises_what_is_not_ours() -> None:
    """Single-record calls on a broken record give one of our errors, never a foreign one."""
    for breaks in BREAKS.values():
        for kind, space, name in (("task", "fleet", "t0"), ("worker", "fleet", "w1"), ("lock", "locks", "x")):
            fresh = World()
            hub, _ = filled(fresh)
            path = where(kind, name)
            fresh.put(space, {path: breaks(fresh.files(space)[path])})
            for look in (
                lambda hub=hub: hub.tasks.get("t0"),
                lambda hub=hub: hub.workers.get("w1"),
                lambda hub=hub: hub.locks.get("x"),
                lambda hub=hub: hub.tasks.result("t0"),
            ):
                with suppress(GhcoordError):
                    look()
            assert hub.tasks.cancel("t1").ended
            fresh.close()


def test_readers_tell_the_missing_from_the_broken(world: World) -> None:
    """A deleted task is not found, right away."""
    hub, _ = filled(world)
    world.put("fleet", {where("task", "t1"): None})
    assert None is hub.tasks.get("t1")
    with pytest.raises(NotFound):
        hub.tasks.cancel("t1")
