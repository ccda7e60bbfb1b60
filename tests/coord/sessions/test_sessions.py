"""Sessions made, looked at, changed and ended through the facade."""

from __future__ import annotations

from typing import Any

import pytest

from ghcoord.coord import layout
from ghcoord.errors import Corrupt, IllegalTransition, InvalidName, NoCapacity, NotFound, TooLarge, UsageError
from ghcoord.hub import Hub
from ghcoord.model.limits import Limits
from ghcoord.model.session import SessionReport, SessionState, Usage
from ghcoord.model.task import State
from tests.coord.sessions.checks import active, check_world, found, opened, saved, worker
from tests.coord.world import World, edited, ids, kinds


def test_a_session_has_what_it_was_made_with(both: World) -> None:
    """Every setting is kept, the worker's list names it, and no index waits for it."""
    hub = both.open()
    worker(hub)
    made = hub.sessions.create(
        "s1",
        user_id="ann",
        workspace_id="main",
        metadata={"a": [1]},
        env={"X": "y"},
        limits={"timeout": "5m", "memory_mb": "512"},
        requirements={"min_cpu_cores": 2, "required_capabilities": ["disk=ssd"]},
        allow=["files.example.org", "example.org:8080"],
    )
    assert found(hub) == made
    assert ("ann", "main", {"a": [1]}, {"X": "y"}) == (made.user_id, made.workspace_id, made.metadata, made.env)
    assert Limits(timeout=300, memory_mb=512) == made.limits
    assert ("new", "full", "w1", made.epoch) == (made.state, made.sandbox, made.worker_id, made.born)
    assert ("s1",) == getattr(hub.workers.get("w1"), "session_ids", None)
    assert 1 == getattr(hub.workers.get("w1"), "active_sessions", None)
    check_world(both)


def test_an_id_is_made_and_none_is_given_twice(world: World, hub: Hub) -> None:
    """Without an id one is made; a taken one is refused, whoever asks."""
    worker(hub)
    first, second = hub.sessions.create(), hub.sessions.create()
    assert first.id != second.id
    with pytest.raises(UsageError, match="is there already: choose another id"):
        world.open("other").sessions.create(first.id)
    assert 2 == hub.sessions.count()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"session_id": "../x"}, InvalidName, "session id"),
        ({"session_id": ""}, InvalidName, "empty"),
        ({"user_id": "a" * 201}, InvalidName, "at most 200"),
        ({"workspace_id": 3}, UsageError, "not a text"),
        ({"metadata": [1]}, UsageError, "JSON object"),
        ({"metadata": {"x": "y" * 70_000}}, TooLarge, "65536"),
        ({"metadata": {"x": object()}}, UsageError, "not JSON"),
        ({"env": {"A=B": "c"}}, UsageError, "no name of a variable"),
        ({"env": {"A": 1}}, UsageError, "must be a text"),
        ({"env": {"A": "\0"}}, UsageError, "zero characters"),
        ({"env": {"A": "\ud800"}}, UsageError, "UTF-8"),
        ({"env": {"A": "x" * 40_000}}, TooLarge, "variables"),
        ({"env": ["A"]}, UsageError, "object of texts"),
        ({"limits": {"timeout": 0}}, UsageError, "limit timeout"),
        ({"limits": {"speed": 1}}, UsageError, "is no limit"),
        ({"limits": 3}, UsageError, "limits must be"),
        ({"sandbox": "strong"}, UsageError, "no sandbox tier"),
        ({"requirements": {"cores": 2}}, UsageError, "is no requirement"),
        ({"requirements": {"sandbox": "none"}}, UsageError, "name the tier once"),
        ({"allow": "example.org"}, UsageError, "list of host names"),
        ({"allow": ["http://x"]}, UsageError, "no host"),
        ({"allow": ["x:0"]}, UsageError, "no host"),
        ({"allow": ["x"] * 51}, UsageError, "too many"),
        ({"worker": "w9"}, NotFound, "no worker 'w9'"),
        ({"checkpoint": ("s9", "c1")}, NotFound, "no session 's9'"),
    ],
)
def test_a_wrong_setting_is_named(hub: Hub, settings: dict[str, Any], error: type[Exception], says: str) -> None:
    """What is wrong is said, and no session is made."""
    worker(hub)
    with pytest.raises(error, match=says):
        hub.sessions.create(**settings)
    assert 0 == hub.sessions.count()


def test_without_a_worker_there_is_no_session(hub: Hub) -> None:
    """The message names the fix."""
    with pytest.raises(NoCapacity, match="there is no worker for the session: start one with 'ghcoord worker start'"):
        hub.sessions.create("s1")


def test_why_no_worker_can_have_it(world: World, hub: Hub) -> None:
    """Each worker is named with its own reason."""
    worker(hub, "w1", max_sessions=0)
    worker(hub, "w2", tier="partial")
    worker(hub, "w3")
    hub.workers.drain("w3")
    worker(hub, "w5")
    world.runtime.advance(20)  # w1 … w5 are silent from here on
    for name in ("w1", "w2", "w3"):
        hub.workers.heartbeat(name)
    with pytest.raises(NoCapacity) as refused:
        hub.sessions.create("s1", requirements={"min_memory_mb": 1000})
    said = refused.value.message
    for part in (
        "w1 has no room (0 of 0 sessions)",
        "w2 offers the sandbox tier partial, not full",
        "w3 is draining",
        "w5 is silent",
    ):
        assert part in said
    with pytest.raises(NoCapacity, match="w2 has 4 cores, not 64"):
        hub.sessions.create("s1", sandbox="none", worker="w2", requirements={"min_cpu_cores": 64})
    with pytest.raises(NoCapacity, match="w2 has 4096 MiB, not 9999"):
        hub.sessions.create("s1", sandbox="none", worker="w2", requirements={"min_memory_mb": 9999})
    with pytest.raises(NoCapacity, match="w2 lacks gpu"):
        hub.sessions.create("s1", sandbox="none", worker="w2", requirements={"required_capabilities": ["gpu"]})
    assert "w2" == hub.sessions.create("s1", sandbox="partial").worker_id


def test_the_worker_with_the_fewest_sessions_gets_the_next(hub: Hub) -> None:
    """Sessions are spread, up to each worker's number."""
    worker(hub, "w1", max_sessions=2)
    worker(hub, "w2", max_sessions=3)
    assert ["w1", "w2", "w1", "w2", "w2"] == [hub.sessions.create().worker_id for _ in range(5)]
    with pytest.raises(NoCapacity, match=r"w1 has no room \(2 of 2 sessions\), w2 has no room \(3 of 3 sessions\)"):
        hub.sessions.create()


def test_what_a_worker_claims_besides_counts(hub: Hub) -> None:
    """A program that reports sessions of its own has less room, and never seems to have fewer than it was given."""
    worker(hub, max_sessions=2)
    hub.sessions.create("s1")
    assert not hub.workers.heartbeat("w1", active_sessions=0, session_ids=["s1"]).unknown_session_ids
    assert 1 == getattr(hub.workers.get("w1"), "active_sessions", None)
    assert ("s9",) == hub.workers.heartbeat("w1", active_sessions=2, session_ids=["s1", "s9"]).unknown_session_ids
    with pytest.raises(NoCapacity, match="2 of 2"):
        hub.sessions.create("s2")


def test_sessions_are_listed_and_counted(hub: Hub) -> None:
    """By worker, user, workspace and state."""
    daemon = worker(hub)
    worker(hub, "w2")
    active(hub, daemon, "s1", user_id="ann")
    hub.sessions.create("s2", worker="w2", user_id="ann", workspace_id="x")
    hub.sessions.create("s3", worker="w2")
    assert ["s1", "s2", "s3"] == ids(hub.sessions.list())
    assert ["s2", "s3"] == ids(hub.sessions.list(worker="w2"))
    assert ["s1", "s2"] == ids(hub.sessions.list(user="ann"))
    assert ["s2"] == ids(hub.sessions.list(workspace="x", state="new"))
    assert (1, 2, 3) == (hub.sessions.count(state="active"), hub.sessions.count(state="new"), hub.sessions.count())
    with pytest.raises(UsageError, match="unknown state 'gone'"):
        hub.sessions.list(state="gone")
    assert [] == hub.sessions.list(worker="w9")


def test_metadata_are_merged_and_replaced(hub: Hub) -> None:
    """Merging goes key by key; both are checked, and all together has a bound."""
    worker(hub)
    hub.sessions.create("s1", metadata={"a": 1, "b": {"c": 2}})
    assert {"a": 1, "b": 3, "d": None} == hub.sessions.merge_metadata("s1", {"b": 3, "d": None})
    assert {"a": 1, "b": 3, "d": None} == hub.sessions.metadata("s1")
    assert {"z": 1} == hub.sessions.replace_metadata("s1", {"z": 1})
    before = hub.commits
    assert {"z": 1} == hub.sessions.merge_metadata("s1", {"z": 1})
    assert before == hub.commits, "what changes nothing commits nothing"
    hub.sessions.merge_metadata("s1", {"x": "y" * 40_000})
    with pytest.raises(TooLarge):
        hub.sessions.merge_metadata("s1", {"w": "y" * 40_000})
    for call in (hub.sessions.metadata, lambda one: hub.sessions.merge_metadata(one, {})):
        with pytest.raises(NotFound, match="no session 's9'"):
            call("s9")
    with pytest.raises(UsageError):
        hub.sessions.replace_metadata("s1", [])  # type: ignore[arg-type]


def test_status_is_what_the_worker_said(hub: Hub) -> None:
    """Use and last calls come with the commits that the worker makes anyway."""
    daemon = worker(hub)
    made = active(hub, daemon)
    use = Usage(memory_mb=12.5, cpu_seconds=3, disk_mb=1)
    note = {"tool": "shell", "success": True, "at": made.created_at, "duration": 0.5}
    daemon.beat(renew=True, sessions=[opened(made, usage=use, calls=7, active_tasks=1, recent=[note])])
    status = hub.sessions.status("s1")
    assert ("active", "w1", 12.5, 3.0, 1.0) == (status.state, status.worker_id, status.memory, status.cpu, status.disk)
    assert (7, 1, ["shell"]) == (status.calls, status.active_tasks, [one.tool for one in status.tasks])
    with pytest.raises(NotFound):
        hub.sessions.status("s9")


def test_a_report_of_use_alone_makes_no_commit(world: World, hub: Hub) -> None:
    """It goes along with the next commit; that a session was opened is told at once, and once."""
    daemon = worker(hub)
    made = hub.sessions.create("s1")
    before = hub.commits
    daemon.beat(sessions=[SessionReport(id="s1", epoch=made.epoch, calls=5)])
    assert before == hub.commits
    daemon.beat(sessions=[opened(made, calls=5)])
    daemon.beat(sessions=[opened(made, calls=6)])
    assert before + 1 == hub.commits
    assert (SessionState.ACTIVE, 5) == (found(hub).state, found(hub).calls)
    world.runtime.advance(3)
    at = world.runtime.now()
    daemon.beat(renew=True, sessions=[opened(made, calls=6, last_active=at + 1000)])
    assert (6, at) == (found(hub).calls, found(hub).last_active.timestamp()), "no clock puts it into the future"


def test_a_look_counts_as_use_with_the_next_tick(world: World, hub: Hub) -> None:
    """``get`` commits nothing; what it notes goes along with a commit of this process's worker."""
    daemon = worker(hub)
    before = active(hub, daemon).last_active
    world.runtime.advance(2)
    commits = hub.commits
    hub.sessions.get("s1")
    assert commits == hub.commits
    assert before == found(hub).last_active
    daemon.beat(renew=True)
    assert 2 == (found(hub).last_active - before).total_seconds()


def test_a_tick_without_sessions_reads_nothing_more(hub: Hub) -> None:
    """A worker that has none, and adopts none, sees no session."""
    daemon = worker(hub)
    assert {} == daemon.beat().sessions
    assert [] == [path for path in kinds(hub) if "session" in path]


# -- the end


def test_destroying_ends_its_calls(both: World) -> None:
    """The record, the worker's entry and the keys go; what waits is cancelled, what runs is asked to end."""
    hub = both.open()
    daemon = worker(hub)
    active(hub, daemon, limits={"active_tasks": 1})
    first = hub.sessions.submit_call("s1", "shell", {"command": "a"}, key="k")
    second = hub.sessions.submit_call("s1", "shell", {"command": "b"})
    third = hub.tasks.submit("echo", after=[second.id])
    assert [first.id] == ids(daemon.lease(5))
    hub.sessions.destroy("s1")
    assert hub.sessions.get("s1") is None
    states = [getattr(hub.tasks.get(one.id), "state", None) for one in (first, second, third)]
    assert [State.LEASED, State.CANCELLED, State.CANCELLED] == states
    assert "its session was destroyed by me" == getattr(hub.tasks.get(second.id), "cancel_reason", None)
    reply = daemon.beat()
    assert ([first.id], {}) == (reply.cancel, reply.sessions)
    assert not [path for path in both.files("fleet") if path.startswith("called/")]
    check_world(both)
    with pytest.raises(NotFound):
        hub.sessions.destroy("s1")
    with pytest.raises(IllegalTransition, match="its session s1 is gone"):
        hub.tasks.retry(second.id)
    assert 0 == getattr(hub.workers.get("w1"), "active_sessions", None)


def test_the_same_id_later_is_another_session(hub: Hub) -> None:
    """A key of the former one counts no more."""
    worker(hub)
    hub.sessions.create("s1")
    first = hub.sessions.submit_call("s1", "echo", {"message": "a"}, key="k")
    hub.sessions.destroy("s1")
    hub.sessions.create("s1")
    assert first.id != hub.sessions.submit_call("s1", "echo", {"message": "b"}, key="k").id


def test_more_calls_than_a_commit_cancels(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go in pages."""
    monkeypatch.setattr("ghcoord.coord.sessions.creating.PAGE", 3)
    worker(hub)
    hub.sessions.create("s1")
    for number in range(8):
        hub.sessions.submit_call("s1", "echo", {"message": str(number)})
    hub.sessions.destroy("s1")
    assert 8 == hub.tasks.counts()["cancelled"]


def test_a_workers_own_are_destroyed_with_it(world: World, hub: Hub) -> None:
    """Deregistering destroys those that are named, tells the unknown ones, and leaves the others for another."""
    daemon = worker(hub)
    worker(hub, "w2")
    for name in ("s1", "s2", "s3"):
        active(hub, daemon, name)
    hub.sessions.create("s4", worker="w2")
    hub.sessions.record_checkpoint("s2", found(hub, "s2").epoch, saved(found(hub, "s2")))
    assert ("s4", "s9") == hub.workers.deregister("w1", ["s1", "s4", "s9"]).unknown_session_ids
    states = {one.id: (str(one.state), one.worker_id) for one in hub.sessions.list()}
    assert {"s2": ("parked", None), "s3": ("lost", None), "s4": ("new", "w2")} == states
    assert "its worker w1 deregistered" == found(hub, "s3").lost_because
    assert ("s2", "s9") == hub.workers.deregister("w2", ["s4", "s2", "s9"]).unknown_session_ids
    assert hub.sessions.get("s4") is None
    check_world(world)


def test_stale_sessions_are_cleaned_up(world: World, hub: Hub) -> None:
    """Those that nobody used for so long, by what their living worker told; never one with a call."""
    daemon = worker(hub)
    active(hub, daemon, "used")
    active(hub, daemon, "called")
    hub.sessions.create("idle")
    hub.sessions.submit_call("called", "echo", {"message": "x"})
    for _ in range(200):
        world.runtime.advance(10)
        used = opened(found(hub, "used"), last_active=world.runtime.now())
        daemon.beat(renew=True, sessions=[used])
    hub.sessions.create("new")
    assert ["idle"] == hub.sessions.stale(1800)
    assert ["idle"] == hub.sessions.stale(0), "what was used within the margin may be in use"
    world.runtime.advance(1)
    assert ["idle", "new", "used"] == hub.sessions.stale(0), "longest unused first, then by id"
    assert 0 == hub.sessions.clean(1800, only=["used", "new"])
    assert 1 == hub.sessions.clean(1800, only=["idle", "used"])
    hub.sessions.destroy("new")
    assert ["called", "used"] == sorted(ids(hub.sessions.list()))
    assert 0 == hub.sessions.clean(1800)
    with pytest.raises(UsageError, match="out of range"):
        hub.sessions.clean(-1)
    check_world(world)


def test_a_session_of_a_dead_worker_is_stale_by_the_clock(world: World, hub: Hub) -> None:
    """Its calls in progress, which nobody tells of any more, keep it no longer."""
    daemon = worker(hub)
    made = active(hub, daemon)
    daemon.beat(renew=True, sessions=[opened(made, active_tasks=1)])
    world.runtime.advance(100)
    assert 0 == hub.sessions.clean(1800)
    world.runtime.advance(1800)
    assert 1 == hub.sessions.clean(1800)
    check_world(world)


def test_what_is_left_of_gone_sessions_is_swept(world: World, hub: Hub) -> None:
    """Checkpoints whose session went with its worker's registration; never those of a record that is set aside."""
    daemon = worker(hub)
    for name in ("s1", "s2"):
        active(hub, daemon, name)
        folder = layout.checkpoints_folder(name)
        hub.contents.put(folder, [], extra={layout.manifest_name("c1"): b'{"epoch": 1}'})
    hub.workers.deregister("w1", ["s1"])
    path = next(path for path in world.files("fleet") if path.startswith("sessions/") and path.endswith("s2.json"))
    world.put("fleet", {f"broken/{path}": b"broken"})
    hub.sessions.clean(1e6)
    assert 2 == len([one for one in world.files("files") if one.startswith("checkpoints/")])
    world.put("fleet", {f"broken/{path}": None})
    hub.sessions.clean(1e6)
    (left,) = [one for one in world.files("files") if one.startswith("checkpoints/")]
    assert layout.checkpoints_folder("s2") in left


# -- people


def test_a_broken_record_hides_no_other(world: World, hub: Hub) -> None:
    """What cannot be read is set aside by the next transaction, and the last good one comes back."""
    worker(hub)
    hub.sessions.create("s1")
    hub.sessions.create("s2")
    path = next(path for path in world.files("fleet") if path.startswith("sessions/") and path.endswith("s1.json"))
    world.put("fleet", {path: b'{"id": "s1", "state": "odd"}'})
    assert ["s2"] == ids(hub.sessions.list())
    with pytest.raises(Corrupt):
        hub.sessions.get("s1")
    hub.sessions.merge_metadata("s2", {"a": 1})
    assert ["s1", "s2"] == sorted(ids(hub.sessions.list()))
    check_world(world)


def test_what_people_did_to_a_record_is_followed(world: World, hub: Hub) -> None:
    """A session moved by hand is on no two workers, one deleted has no calls left, one of a gone worker waits."""
    daemon = worker(hub)
    worker(hub, "w2")
    for name in ("s1", "s2", "s3"):
        active(hub, daemon, name)
    call = hub.sessions.submit_call("s2", "echo", {"message": "x"})
    files = world.files("fleet")
    path = {name: next(one for one in files if one.endswith(f"/{name}.json")) for name in ("s1", "s2", "s3")}
    moved = edited(files[path["s1"]], worker_id="w2")
    away = edited(files[path["s3"]], worker_id="w9")
    world.put("fleet", {path["s1"]: moved, path["s2"]: None, path["s3"]: away})
    daemon.beat(renew=True)
    check_world(world)
    assert (("s1",), ()) == tuple(getattr(hub.workers.get(one), "session_ids", None) for one in ("w2", "w1"))
    assert State.CANCELLED == getattr(hub.tasks.get(call.id), "state", None)
    assert SessionState.LOST == found(hub, "s3").state


def test_the_index_is_made_anew(world: World, hub: Hub) -> None:
    """``doctor --repair`` restores what a person deleted from the index, also of calls behind their gate."""
    daemon = worker(hub)
    active(hub, daemon, limits={"active_tasks": 1})
    for number in range(3):
        hub.sessions.submit_call("s1", "echo", {"message": str(number)})
    hub.sessions.create("s2")
    hub.sessions.park("w1", {"s2": found(hub, "s2").epoch})
    gone: dict[str, bytes | None] = dict.fromkeys(path for path in world.files("fleet") if path.startswith("index/"))
    world.put("fleet", gone)
    hub.repair()
    check_world(world)
    assert 1 == len(daemon.lease(5))
