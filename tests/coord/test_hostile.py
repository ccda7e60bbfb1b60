"""What people push, as bad as it comes: one record stops nobody but itself."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ghcoord.coord.audit import events
from ghcoord.coord.care.adopt import MAX_ASIDE, MAX_BY_HAND
from ghcoord.coord.context import TASK_TABLE, put_worker
from ghcoord.coord.queue import counts, rebuild, records
from ghcoord.coord.tasks.submission import MAX_PAYLOAD, Submission
from ghcoord.coord.workers.tick import Returned, Said
from ghcoord.hub import Hub
from ghcoord.model import steps as model
from ghcoord.model.codec import MAX_RECORD, encode, to_json
from ghcoord.model.task import State, Task, TaskResult
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.objects import TreeEditor, encode_commit
from ghcoord.store.tx import Tx
from tests.coord.world import BAD, Daemon, World, edited, ids, kinds, token_of, where


def widened(hub: Hub, task_id: str) -> Task:
    """The task with contents that ghcoord cannot write: put past every check, as an older version might have."""
    task = hub.tasks.get(task_id)
    assert task is not None
    wide = task.model_copy(update={"args": {"n": [1] * 200_000}})
    data = json.dumps(wide.model_dump(mode="json", exclude_none=True)).encode()
    hub._context.transact(("fleet",), lambda tx: tx.write("fleet", where("task", task_id), data))
    return wide


def leases(daemon: Daemon, task: Task) -> None:
    assert ["later"] == ids(daemon.lease(5))


def gives_back(daemon: Daemon, task: Task) -> None:
    daemon.beat(returned=(Returned(task.id, token_of(task), "why"),), renew=True)


def fails(daemon: Daemon, task: Task) -> None:
    daemon.report(task, BAD, renew=True)


def dies(daemon: Daemon, task: Task) -> None:
    daemon.hub.workers.deregister(daemon.worker_id)


@pytest.mark.parametrize("step", [leases, gives_back, fails, dies])
def test_a_task_that_cannot_be_written_dies_alone(world: World, step: Callable[[Daemon, Task], None]) -> None:
    """It is dead with the reason; the heartbeat and other tasks go on."""
    hub = world.open()
    hub.tasks.submit("echo", {"m": 1}, id="bad", priority=9, retries=1)
    daemon = Daemon(hub)
    if step is not leases:
        daemon.lease()
    hub.tasks.submit("echo", id="later")
    world.runtime.advance(1)
    step(daemon, widened(hub, "bad"))
    dead = world.check_index()["bad"]
    assert (State.DEAD, {}) == (dead.state, dead.args)
    assert dead.result is not None
    assert "too large" in dead.result.error
    assert "task dead" in kinds(hub)
    if step is not dies:
        assert daemon.beat(renew=True).renewed


def test_the_end_of_a_back_off_of_such_a_task(world: World) -> None:
    """Promoting it makes it dead, and the others are leased."""
    hub = world.open()
    hub.tasks.submit("echo", id="bad", retries=1, backoff=1)
    daemon = Daemon(hub)
    daemon.report(daemon.lease()[0], BAD)
    hub.tasks.submit("echo", id="later")
    widened(hub, "bad")
    world.runtime.advance(10)
    assert ["later"] == ids(daemon.lease(5))
    assert State.DEAD is world.check_index()["bad"].state


def test_an_edited_record_is_measured_as_it_will_be_written(world: World) -> None:
    """Compact JSON under the limit that is over it when indented is set aside, not taken over."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    path = where("task", "t1")
    record = json.loads(world.files("fleet")[path])
    wide = json.dumps({**record, "args": {"n": [1] * 200_000}}, separators=(",", ":")).encode()
    assert len(wide) < MAX_BY_HAND
    world.put("fleet", {path: wide})
    daemon = Daemon(hub)
    assert ["t1"] == ids(daemon.lease())
    (report,) = hub.broken()
    assert "cannot be written again" in report["reason"]


def test_a_result_leaves_room_for_the_attempts_after_it(world: World) -> None:
    """With the largest arguments and results that just fit, every attempt can be recorded."""
    hub = world.open()
    text = "p" * (MAX_PAYLOAD - 200)
    hub.tasks.submit("echo", {"pad": text}, id="t1", retries=30, backoff=0.01)
    daemon = Daemon(hub)
    for _ in range(25):
        world.runtime.advance(1000)
        (task,) = daemon.lease()
        left = MAX_RECORD - 4000 - len(encode(model.finish(task, TaskResult(success=False), now=hub._context.now())))
        error = "é" * (left // 2)
        daemon.report(task, TaskResult(success=False, error=error, data={"x": "y" * 100}))
        assert records.HEADROOM <= MAX_RECORD - len(world.files("fleet")[where("task", "t1")])
    assert State.FAILED is world.check_index()["t1"].state


def test_progress_that_does_not_fit_is_left_out(world: World) -> None:
    """A task with large arguments runs on; what it says is not worth its life."""
    hub = world.open()
    hub.tasks.submit("echo", {"pad": "p" * (MAX_PAYLOAD - 200)}, id="t1")
    daemon = Daemon(hub)
    (task,) = daemon.lease()
    daemon.beat(said=(Said("t1", token_of(task), 0.5, "working", "x" * 120_000, 120_000),), renew=True)
    present = world.check_index()["t1"]
    assert (State.LEASED, None) == (present.state, present.progress)


def test_a_worker_record_that_got_too_large_is_cut(world: World) -> None:
    """It keeps its lease: heartbeats, draining and recovery go on."""
    hub = world.open()
    hub.workers.register("w1", metadata={"x": "y" * 900_000})
    worker = hub.workers.get("w1")
    assert worker is not None

    def widen(tx: Tx) -> None:
        put_worker(tx, worker.model_copy(update={"metadata": {"x": "y" * 1_000_000}}))

    hub._context.transact(("fleet",), widen)
    cut = hub.workers.get("w1")
    assert cut is not None
    assert (worker.lease, {}) == (cut.lease, cut.metadata)
    assert "worker record cut" in kinds(hub)
    hub.workers.heartbeat("w1", token=worker.token)


# -- directories and sizes


def test_deep_directories_stop_nothing(world: World) -> None:
    """Thousands of levels among the records, in the index and elsewhere: reported once, and work goes on."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    daemon = Daemon(hub)
    store = world.store()
    assert isinstance(store, MemoryStore)
    editor = TreeEditor(store.tree)
    oid = editor.apply(None, {"f": b"x"})
    for _ in range(2000):
        oid = editor.add("tree", b"40000 d\0" + bytes.fromhex(oid))
    top = store.commit_info(store.heads()["fleet"]).tree

    def grafted(tree: str, name: str) -> str:
        entries = dict(store.tree(tree))
        raw = [(e.name + ("/" if e.is_tree else ""), e.mode, e.name, e.oid) for e in entries.values()]
        raw.append((name + "/", "40000", name, oid))
        return editor.add("tree", b"".join(f"{m} {n}\0".encode() + bytes.fromhex(o) for _, m, n, o in sorted(raw)))

    changed = {name: grafted(store.tree(top)[name].oid, "zz") for name in ("tasks", "index")}
    entries = store.tree(top)
    raw = [(e.name + ("/" if e.is_tree else ""), e.mode, e.name, changed.get(e.name, e.oid)) for e in entries.values()]
    raw.append(("notes/", "40000", "notes", oid))
    root = editor.add("tree", b"".join(f"{m} {n}\0".encode() + bytes.fromhex(o) for _, m, n, o in sorted(raw)))
    made = editor.add("commit", encode_commit(root, (store.heads()["fleet"],), "A Person", 1, "deep\n"))
    world._keep(editor)
    world.set_head("fleet", made)
    assert [] == hub.broken()
    for state in State:
        hub.tasks.list(state)
    hub.tasks.submit("echo", id="t2")
    assert ["t1", "t2"] == ids(daemon.lease(5))
    assert 1 == sum(kind.startswith("ignored") for kind in kinds(hub))


def test_names_under_broken_never_collide(both: World) -> None:
    """Strays named like notes, below each other's notes, and where ``broken/`` has something else: all kept."""
    hub = both.open()
    hub.tasks.submit("echo", id="t1")
    strays = {
        "tasks/aa/bb/foo": b"1",
        "tasks/aa/bb/foo.reason.json/bar": b"2",
        "tasks/aa/cc/x": b"3",
        "tasks/aa/cc/x.reason.json": b"4",
        "tasks/aa/dd": b"5",
        "tasks/aa/ee/y": b"6",
    }
    both.put("fleet", {**strays, "broken/tasks/aa/dd/mine": b"m", "broken/tasks/aa/ee": b"m"})
    both.runtime.advance(1)
    hub.tasks.submit("echo", id="t2")
    files = both.files("fleet")
    reports = hub.broken()
    assert strays == {report["path"]: files[report["aside"]] for report in reports}
    assert "broken/tasks/aa/cc/x" in {report["aside"] for report in reports}
    assert (b"m", b"m") == (files["broken/tasks/aa/dd/mine"], files["broken/tasks/aa/ee"])
    assert set(strays).isdisjoint(files)
    both.check_index()


def test_a_record_comes_where_a_directory_was(both: World) -> None:
    """A directory in the place of a record goes aside while the same transaction makes the record anew."""
    hub = both.open()
    path = where("task", "t1")
    hub.memory.set("k", 1)
    hub.tasks.submit("echo", id="t0")
    both.put("fleet", {f"{path}/inside": b"x"})
    both.runtime.advance(1)
    hub.tasks.submit("echo", id="t1")
    assert {"t0", "t1"} == set(both.check_index())
    assert [f"{path}/inside"] == [report["path"] for report in hub.broken()]


def test_huge_files_do_not_stop_the_space(world: World) -> None:
    """More than a commit takes, in one file and in many: a part is kept, the history has the rest."""
    hub = world.open()
    many = {f"tasks/aa/bb/{n}.json": b"y" * 3_000_000 for n in range(40)}
    world.put("fleet", {"tasks/aa/bb/big.json": b"x" * (65 << 20), **many})
    world.runtime.advance(1)
    hub.tasks.submit("echo", id="t1")
    files = world.files("fleet")
    assert 41 == len(hub.broken())
    assert MAX_ASIDE == len(files["broken/tasks/aa/bb/0.json"])
    assert max(map(len, files.values())) <= MAX_ASIDE
    assert sum(map(len, files.values())) < 40_000_000


# -- what a hand edit costs


def test_an_edit_reads_only_what_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of many tasks edited by hand, one deleted, one made: the index follows without being made anew."""
    hub = world.open()
    hub.tasks.submit_many([Submission("echo", id=f"t{n}") for n in range(50)])
    rebuilt: list[Tx] = []
    monkeypatch.setattr(rebuild, "rebuild", rebuilt.append)
    files = world.files("fleet")
    new = {"id": "new", "tool": "echo", "created_at": "2026-01-01T00:00:00Z", "sequence": 99}
    world.put(
        "fleet",
        {
            where("task", "t1"): edited(files[where("task", "t1")], priority=9),
            where("task", "t2"): None,
            where("task", "t3"): b"{broken",
            where("task", "new"): json.dumps(new).encode(),
        },
    )
    world.runtime.advance(1)
    daemon = Daemon(hub)
    assert ["t1", "t0", "t3"] == ids(daemon.lease(3))
    assert 100 == counts.parse(world.files("fleet")["queue.json"]).sequence
    assert 50 == len(world.check_index())
    assert [] == rebuilt
    assert 50 == len(list(TASK_TABLE.scan(world.snapshot("fleet"))))


@pytest.mark.parametrize("sequence", [2**40, 2**53])
def test_a_sequence_of_ones_own_making_uses_up_no_numbers(world: World, sequence: int) -> None:
    """A task put at the far end by hand stays there, and others are queued as before."""
    hub = world.open()
    hub.tasks.submit("echo", id="t1")
    path = where("task", "t1")
    world.put("fleet", {path: edited(world.files("fleet")[path], sequence=sequence)})
    world.runtime.advance(1)
    assert 1 == hub.tasks.submit("echo", id="t2").sequence
    world.put("fleet", {"queue.json": to_json({"sequence": sequence, "counts": {}}).encode()})
    world.runtime.advance(1)
    assert 2 == hub.tasks.submit("echo", id="t3").sequence
    assert {"t1", "t2", "t3"} == set(ids(Daemon(hub).lease(5)))


# -- events


def test_renewals_do_not_crowd_out_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened before many renewals is still shown; the walk has an end all the same."""
    hub = world.open()
    daemon = Daemon(hub)
    hub.tasks.submit("echo", id="t1")
    monkeypatch.setattr(events, "WALK_LIMIT", 3)
    for _ in range(20):
        world.runtime.advance(1)
        daemon.beat(renew=True)
    assert "task submitted" in kinds(hub)
    monkeypatch.setattr(events, "WALK_MOST", 10)
    assert [] == hub.events(task="t1")


@pytest.mark.parametrize(
    "line",
    ['{"a":' * 3000 + "1" + "}" * 3000, '{"at":1e18,"kind":"x"}', '{"at":-1e11,"kind":"x"}', '{"at":1e999,"kind":"x"}'],
)
def test_events_written_by_hand_stop_nothing(world: World, line: str) -> None:
    """A message with what looks like an event and is none."""
    hub = world.open()
    world.put("fleet", {"note": b"x"}, message=f"hi\n\n- {line}")
    assert "x" not in kinds(hub)
