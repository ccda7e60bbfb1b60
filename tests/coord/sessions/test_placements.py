"""Which worker has a session: death, return, adoption, restoring, and what a worker that lost it may still say."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ghcoord.bootstrap import open_hub
from ghcoord.clock import SystemRuntime
from ghcoord.config import Settings
from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET
from ghcoord.errors import LeaseLost, NoCapacity, NotFound, SessionLost, UsageError, WorkerReplaced
from ghcoord.hub import Health, Hub
from ghcoord.model.session import SessionReport, SessionState
from ghcoord.model.task import State
from ghcoord.model.worker import SandboxInfo
from ghcoord.store.base import Store
from ghcoord.store.inmemory import MemoryStore
from ghcoord.store.local import LocalStore, create_repository
from ghcoord.store.snapshot import Snapshot
from tests.coord.sessions.checks import active, check_sessions, check_world, found, opened, saved, worker
from tests.coord.world import PREFIX, World, edited, ids, kinds

ECHO = {"message": "x"}


def save(hub: Hub, name: str = "c1", session_id: str = "s1", keep: int = 10, **fields: object) -> list[str]:
    """Record a checkpoint as the session's worker does."""
    session = found(hub, session_id)
    return hub.sessions.record_checkpoint(session_id, session.epoch, saved(session, name, **fields), keep)


# -- death


def test_a_dead_workers_sessions_go_on_elsewhere(both: World) -> None:
    """Saved ones are parked and new ones stay new, others are lost with their calls; the next worker adopts."""
    hub = both.open()
    daemon = worker(hub, "w1")
    for name in ("kept", "lost"):
        active(hub, daemon, name)
    hub.sessions.create("new")
    hub.sessions.create("idle")
    save(hub, session_id="kept")
    calls = {name: hub.sessions.submit_call(name, "echo", ECHO) for name in ("kept", "lost", "new")}
    assert 3 == len(daemon.lease(10))
    both.runtime.advance(60)
    other = worker(hub, "w2", max_sessions=2)
    assert (0, 3, 4) == hub.workers.recover("w1")
    check_world(both)
    states = {one.id: (str(one.state), one.worker_id) for one in hub.sessions.list()}
    assert {
        "kept": ("parked", None),
        "lost": ("lost", None),
        "new": ("new", None),
        "idle": ("new", None),
    } == states
    assert State.CANCELLED == getattr(hub.tasks.get(calls["lost"].id), "state", None)
    assert "its worker w1 died" == found(hub, "lost").lost_because
    with pytest.raises(SessionLost, match="its worker w1 died"):
        hub.sessions.call("lost", "echo", ECHO)
    reply = other.beat(10, adopt=5)
    assert {"kept", "new"} == set(reply.sessions), "those with calls, up to its room"
    assert {calls["kept"].id, calls["new"].id} == set(ids(reply.leased))
    assert "c1" == found(hub, "kept").restore_from
    check_world(both)
    other.beat(sessions=[opened(found(hub, "kept"), restored_from="c1")])
    back = found(hub, "kept")
    assert ("active", "c1", True) == (back.state, back.restored_from, back.restored_at is not None)


def test_the_next_call_recovers_a_dead_worker(world: World, hub: Hub) -> None:
    """Nobody has to notice before: who calls sees that the lease is over."""
    active(hub, worker(hub, "w1"))
    save(hub)
    world.runtime.advance(60)
    other = worker(hub, "w2")
    call = hub.sessions.submit_call("s1", "echo", ECHO)
    assert [call.id] == ids(other.beat(1, adopt=1).leased)
    check_world(world)


def test_a_call_leaves_an_offline_worker(world: World, hub: Hub) -> None:
    """Also where nobody has recovered it: the session goes to whoever comes next, or is lost, and it says so."""
    for name in ("kept", "bare"):
        active(hub, worker(hub, "w1"), name)
    save(hub, session_id="kept")
    hub.workers.set_status("w1", "offline")
    other = worker(hub, "w2")
    call = hub.sessions.submit_call("kept", "echo", ECHO)
    assert [call.id] == ids(other.beat(1, adopt=1).leased)
    with pytest.raises(SessionLost, match="its worker w1 is gone"):
        hub.sessions.submit_call("bare", "echo", ECHO)
    hub.workers.recover("w1")
    check_world(world)


def test_an_unhealthy_worker_gets_no_session(hub: Hub) -> None:
    """Nor does it adopt one."""
    daemon = worker(hub)
    made = hub.sessions.create("s1")
    hub.sessions.park("w1", {"s1": made.epoch})
    hub.sessions.submit_call("s1", "echo", ECHO)
    hub.workers.heartbeat("w1", health=Health(health_status="unhealthy"))
    with pytest.raises(NoCapacity, match="w1 is unhealthy"):
        hub.sessions.create("s2")
    assert {} == daemon.beat(adopt=1).sessions


def test_a_worker_that_people_removed(world: World, hub: Hub) -> None:
    """Its sessions are left by the next transaction; a list that they wrote is put right."""
    active(hub, worker(hub, "w1"))
    save(hub)
    worker(hub, "w2")
    files = world.files("fleet")
    first, second = (next(path for path in files if path.endswith(f"/{name}.json")) for name in ("w1", "w2"))
    listed = edited(files[second], session_ids=["../x", "s9", "s1", "s1"], active_sessions=4)
    world.put("fleet", {first: None, second: listed})
    hub.tasks.submit("echo")
    check_world(world)
    assert ("parked", None) == (found(hub).state, found(hub).worker_id)
    assert (0, ()) == tuple(getattr(hub.workers.get("w2"), one) for one in ("active_sessions", "session_ids"))


def test_sweeps_leave_no_session_behind(world: World, hub: Hub) -> None:
    """An offline worker that still has one is recovered, and one that is removed leaves none."""
    active(hub, worker(hub, "w1"))
    hub.workers.set_status("w1", "offline")
    assert {"w1": (0, 0, 1)} == hub.workers.tend()
    assert {} == hub.workers.tend()
    assert SessionState.LOST == found(hub).state
    active(hub, worker(hub, "w2"), "s2")
    world.runtime.advance(60)
    assert ["w2"] == hub.workers.mark_stale()
    world.runtime.advance(600)
    assert {"w2"} == set(hub.workers.reap_now().recovered)
    check_world(world)
    assert hub.workers.get("w2") is None


def test_a_worker_takes_back_what_it_still_has(world: World, hub: Hub) -> None:
    """After its death, while nobody else had it: lost or parked, under the same epoch; the calls go on."""
    daemon = worker(hub, "w1")
    epochs = {name: active(hub, daemon, name).epoch for name in ("lost", "kept", "gone")}
    epochs["new"] = hub.sessions.create("new").epoch
    save(hub, session_id="kept")
    save(hub, session_id="gone")
    world.runtime.advance(60)
    other = worker(hub, "w2")
    hub.workers.recover("w1")
    hub.sessions.submit_call("gone", "echo", ECHO)
    other.beat(adopt=5)
    again = worker(hub, "w1")
    assert {name: epochs[name] for name in ("lost", "kept", "new")} == hub.sessions.reattach(
        "w1", again.token, {**epochs, "unknown": 5, "../x": 7}
    )
    assert ["active", "active"] == [found(hub, name).state for name in ("lost", "kept")]
    assert "" == found(hub, "lost").lost_because
    check_world(world)
    hub.sessions.submit_call("lost", "echo", ECHO)
    assert 1 == len(again.lease())
    with pytest.raises(WorkerReplaced):
        hub.sessions.reattach("w1", daemon.token, epochs)
    with pytest.raises(NotFound):
        hub.sessions.reattach("w9", 5, epochs)


def test_taking_back_needs_room_and_the_sandbox(world: World, hub: Hub) -> None:
    """A worker that came back smaller or weaker has no more than it may."""
    daemon = worker(hub, "w1")
    epochs = {name: active(hub, daemon, name).epoch for name in ("a", "b", "c")}
    world.runtime.advance(60)
    worker(hub, "w2")
    hub.workers.recover("w1")
    small = worker(hub, "w1", max_sessions=2)
    assert {"a", "b"} == set(hub.sessions.reattach("w1", small.token, epochs))
    check_world(world)
    weak = worker(hub, "w1", tier="partial")
    assert {"lost"} == {str(found(hub, name).state) for name in epochs}
    assert "its worker came back with a weaker sandbox" == found(hub, "a").lost_because
    assert {} == hub.sessions.reattach("w1", weak.token, epochs)
    check_world(world)


def test_registering_again_keeps_sessions(world: World, hub: Hub) -> None:
    """Their epoch stays, so that the new process finds its folders; the calls of the old one go back."""
    daemon = worker(hub)
    made = active(hub, daemon)
    call = hub.sessions.submit_call("s1", "echo", ECHO)
    assert [call.id] == ids(daemon.lease())
    again = worker(hub)
    assert {"s1": made.epoch} == again.beat().sessions
    check_world(world)
    assert [call.id] == ids(again.lease())
    hub.workers.register("w1", sandbox=SandboxInfo(driver="bwrap", tier="full"), max_sessions=0)
    assert ("s1",) == getattr(hub.workers.get("w1"), "session_ids", None)
    with pytest.raises(NoCapacity):
        hub.sessions.create("s2")


# -- leaving and coming


def test_draining_parks(world: World, hub: Hub) -> None:
    """What has a checkpoint in the hub is parked, what was never opened is new, the rest waits for this worker."""
    daemon = worker(hub)
    epochs = {name: active(hub, daemon, name).epoch for name in ("saved", "local", "bare")}
    epochs["new"] = hub.sessions.create("new").epoch
    save(hub, session_id="saved")
    save(hub, session_id="local", published=False)
    left = hub.sessions.park("w1", {**epochs, "bare": 1, "unknown": 4})
    assert {"saved": "parked", "local": "lost", "new": "new"} == left
    assert {"bare": epochs["bare"]} == daemon.beat().sessions
    assert 1 == getattr(hub.workers.get("w1"), "active_sessions", None)
    assert {} == hub.sessions.park("w2", epochs)
    check_world(world)
    assert {"saved", "local", "bare", "new"} == set(hub.sessions.reattach("w1", daemon.token, epochs))
    check_world(world)


def test_who_adopts(world: World, hub: Hub) -> None:
    """Only with room, the sandbox and what the session requires; not while draining; only sessions with calls."""
    made = [
        active(hub, worker(hub, "w1"), name, requirements={"required_capabilities": ["disk=ssd"]}).epoch
        for name in ("s1", "s2", "s3")
    ]
    for name in ("s1", "s2", "s3"):
        save(hub, session_id=name)
    hub.sessions.park("w1", dict(zip(("s1", "s2", "s3"), made, strict=True)))
    none, weak, small = worker(hub, "w2", max_sessions=0), worker(hub, "w3", tier="partial"), worker(hub, "w4")
    for name in ("s1", "s2"):
        hub.sessions.submit_call(name, "echo", ECHO)
    assert {} == none.beat(adopt=5).sessions == weak.beat(adopt=5).sessions
    assert {} == small.beat(adopt=5, draining=True).sessions
    assert {} == small.beat(adopt=0).sessions
    before = hub.commits
    assert {"s1"} == set(small.beat(adopt=1).sessions)
    assert before + 1 == hub.commits
    assert {"s1", "s2"} == set(small.beat(adopt=5).sessions)
    assert found(hub, "s1").epoch > made[0]
    check_world(world)
    before = hub.commits
    small.beat(adopt=5)
    assert before == hub.commits, "one without calls stays where it is"


# -- what an old worker says


def test_a_paused_worker_is_not_believed(world: World, hub: Hub) -> None:
    """Its reports, checkpoints, parking and results of a session that another one has change nothing."""
    old = worker(hub, "w1")
    epoch = active(hub, old).epoch
    save(hub)
    call = hub.sessions.submit_call("s1", "echo", ECHO)
    (leased,) = old.lease()
    world.runtime.advance(60)
    new = worker(hub, "w2")
    hub.workers.recover("w1")
    new.beat(1, adopt=1)
    new.beat(sessions=[opened(found(hub), restored_from="c1")])
    state = found(hub)
    stale = SessionReport(id="s1", epoch=epoch, opened=True, calls=99, lost="my disk is broken")
    reply = old.report(leased, sessions=[stale])
    assert reply.lost
    assert [call.id] == [*reply.refused]
    again = worker(hub, "w1")
    assert {} == again.beat(renew=True, sessions=[stale]).sessions
    with pytest.raises(LeaseLost, match=f"its epoch is {state.epoch}, not {epoch}"):
        hub.sessions.record_checkpoint("s1", epoch, saved(state, "c2"))
    assert {} == hub.sessions.park("w1", {"s1": epoch})
    assert {} == hub.sessions.reattach("w1", again.token, {"s1": epoch})
    assert state == found(hub)
    assert State.LEASED == getattr(hub.tasks.get(call.id), "state", None)
    # With the right epoch, but from a worker that does not have it.
    fake = SessionReport(id="s1", epoch=state.epoch, lost="never")
    again.beat(renew=True, sessions=[fake])
    assert state == found(hub)
    check_world(world)


def test_a_displaced_session_takes_no_checkpoint(hub: Hub) -> None:
    """Not even under the right epoch, until its worker has taken it back."""
    daemon = worker(hub)
    made = active(hub, daemon)
    hub.sessions.park("w1", {"s1": made.epoch})
    with pytest.raises(LeaseLost):
        hub.sessions.record_checkpoint("s1", made.epoch, saved(made))
    hub.sessions.reattach("w1", daemon.token, {"s1": made.epoch})
    assert [] == hub.sessions.record_checkpoint("s1", made.epoch, saved(made))
    with pytest.raises(NotFound):
        hub.sessions.record_checkpoint("s9", made.epoch, saved(made))
    with pytest.raises(UsageError):
        hub.sessions.record_checkpoint("s1", made.epoch, saved(made), keep=0)


def test_a_report_of_loss_ends_the_session(world: World, hub: Hub) -> None:
    """Its calls are cancelled, its worker has room again, and no other takes it before it is restored."""
    daemon = worker(hub)
    made = active(hub, daemon)
    save(hub)
    call = hub.sessions.submit_call("s1", "echo", ECHO)
    reply = daemon.beat(5, sessions=[SessionReport(id="s1", epoch=made.epoch, lost="its checkpoint is broken")])
    assert ([], {}) == (reply.leased, reply.sessions)
    assert "cancelled" == getattr(hub.tasks.get(call.id), "state", None)
    assert "session lost" in kinds(hub)
    check_world(world)


# -- checkpoints


def test_the_last_checkpoints_stay(hub: Hub) -> None:
    """As many as are kept, and the newest that any worker can restore; lists too long for a record are left out."""
    daemon = worker(hub)
    active(hub, daemon)
    assert [] == save(hub, "c1")
    for number in range(2, 4):
        assert [] == save(hub, f"c{number}", published=False, keep=3)
    assert [] == save(hub, "c4", published=False, keep=3), "c1 is what another worker would start from"
    assert ["c2"] == save(hub, "c5", published=False, keep=3)
    assert ["c1", "c3", "c4"] == save(hub, "c6", keep=2)
    assert ["c5", "c6"] == ids(hub.sessions.checkpoints("s1"))
    long = tuple(f"{'x' * 3000}{number}" for number in range(100))
    for number in range(7, 10):
        save(hub, f"c{number}", modified=long)
    assert [0, 0, 0, 0, 100] == [len(one.modified) for one in hub.sessions.checkpoints("s1")]
    assert [] == save(hub, "c9", modified=long), "the same again changes nothing"


def test_forgetting_a_checkpoint(hub: Hub) -> None:
    """The next start is from one that is left; the last of a session without other files stays."""
    daemon = worker(hub)
    made = active(hub, daemon)
    save(hub, "c1")
    save(hub, "c2")
    assert "c2" == hub.sessions.forget_checkpoint("s1", "c2").id
    assert "c1" == found(hub).restore_from
    hub.sessions.park("w1", {"s1": made.epoch})
    with pytest.raises(UsageError, match="has no other files"):
        hub.sessions.forget_checkpoint("s1", "c1")
    with pytest.raises(NotFound, match="no checkpoint 'c9'"):
        hub.sessions.forget_checkpoint("s1", "c9")


def test_restoring_in_place(world: World, hub: Hub) -> None:
    """The session stays on its worker under a new epoch, so that the files of before are given up."""
    daemon = worker(hub)
    worker(hub, "w2")
    made = active(hub, daemon)
    save(hub, "c1")
    save(hub, "c2")
    waiting = hub.sessions.submit_call("s1", "echo", ECHO)
    back = hub.sessions.restore("s1", "c1")
    assert ("parked", "w1", "c1") == (back.state, back.worker_id, back.restore_from)
    assert back.epoch > made.epoch
    check_world(world)
    assert [waiting.id] == ids(daemon.lease())
    daemon.beat(sessions=[opened(back, restored_from="c1")])
    assert ("active", "c1") == (found(hub).state, found(hub).restored_from)
    with pytest.raises(UsageError, match="1 calls of the session s1 are running"):
        hub.sessions.restore("s1")
    daemon.report(hub.tasks.list("leased")[0])
    assert "w2" == hub.sessions.restore("s1", worker="w2").worker_id
    check_world(world)
    with pytest.raises(NotFound, match="no checkpoint 'c9'"):
        hub.sessions.restore("s1", "c9")
    with pytest.raises(NotFound, match="no session"):
        hub.sessions.restore("s9")
    hub.sessions.create("bare")
    with pytest.raises(NotFound, match="the session bare has no checkpoint"):
        hub.sessions.restore("bare")


def test_restoring_without_room_waits(world: World, hub: Hub) -> None:
    """For whoever comes; asked for one worker it is refused and nothing has changed."""
    daemon = worker(hub)
    made = active(hub, daemon)
    save(hub)
    full = worker(hub, "w2", max_sessions=0)
    with pytest.raises(NoCapacity, match="w2 has no room"):
        hub.sessions.restore("s1", worker="w2")
    assert made.epoch == found(hub).epoch
    hub.workers.deregister("w1")
    assert (None, "parked") == (hub.sessions.restore("s1").worker_id, found(hub).state)
    assert {} == full.beat(adopt=1).sessions
    check_world(world)


def test_restoring_a_lost_session(world: World, hub: Hub) -> None:
    """From a checkpoint that only its worker has it goes back there, and nowhere else."""
    daemon = worker(hub)
    made = active(hub, daemon)
    save(hub, published=False)
    worker(hub, "w2")
    assert {"s1": "lost"} == hub.sessions.park("w1", {"s1": made.epoch})
    with pytest.raises(UsageError, match="only the worker 'w1' has the checkpoint c1"):
        hub.sessions.restore("s1", worker="w2")
    with pytest.raises(UsageError, match="only the worker 'w1' has the checkpoint c1: publish one first"):
        hub.sessions.restore("s1", new_id="s2")
    assert ("w1", "parked", "") == (
        hub.sessions.restore("s1").worker_id,
        found(hub).state,
        found(hub).lost_because,
    )
    assert {} == hub.sessions.reattach("w1", daemon.token, {"s1": made.epoch}), "its old files no longer count"
    check_world(world)


def test_a_session_from_anothers_checkpoint(world: World, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the settings, starts parked, and names whose content it is; that stays while it is needed."""
    daemon = worker(hub)
    active(hub, daemon, metadata={"a": 1}, env={"X": "y"}, sandbox="partial", user_id="ann")
    save(hub)
    copy = hub.sessions.restore("s1", new_id="s2")
    assert ({"a": 1}, {"X": "y"}, "partial", "ann") == (copy.metadata, copy.env, copy.sandbox, copy.user_id)
    assert ("parked", "c1", "s1") == (copy.state, copy.restore_from, copy.checkpoints[0].origin)
    third = hub.sessions.create("s3", checkpoint=("s2", "c1"))
    assert ("s1", {}) == (third.checkpoints[0].origin, third.metadata)
    with pytest.raises(UsageError, match="is there already"):
        hub.sessions.restore("s1", new_id="s2")
    with pytest.raises(NotFound, match="no checkpoint 'c9'"):
        hub.sessions.create("s4", checkpoint=("s1", "c9"))
    dropped: list[str] = []
    monkeypatch.setattr(hub.sessions, "drop_all", dropped.append)
    hub.sessions.destroy("s1")
    hub.sessions.destroy("s2")
    assert ["s2"] == dropped
    hub.sessions.destroy("s3")
    assert ["s2", "s1", "s3"] == dropped
    check_world(world)


def test_what_another_session_starts_from_is_not_pruned(world: World, hub: Hub) -> None:
    """A checkpoint that its own session has dropped stays as long as one that was made of it names it."""
    daemon = worker(hub)
    active(hub, daemon)
    save(hub)
    folder, name = layout.checkpoints_folder("s1"), layout.manifest_name("c1")
    hub.contents.put(folder, [], extra={name: b'{"epoch": 1}'})
    hub.sessions.restore("s1", new_id="s2")
    assert ["c1"] == save(hub, "c2", keep=1)
    hub.sessions.prune("s1", gone=["c1"])
    assert f"{folder}/{name}" in world.files("files")
    hub.sessions.destroy("s2")
    hub.sessions.prune("s1", gone=["c1"])
    assert f"{folder}/{name}" not in world.files("files")


# -- races


@pytest.mark.parametrize("where", ["memory", "local"])
def test_capacity_holds_in_a_race(tmp_path: Path, where: str) -> None:
    """Twenty threads create fifty sessions on two workers of five: ten are made, the others hear why not."""
    runtime = SystemRuntime()
    memory = MemoryStore(runtime.now)
    if where == "local":
        create_repository(tmp_path / "hub.git", PREFIX + FLEET)

    def store() -> Store:
        return memory if where == "memory" else LocalStore(tmp_path / "hub.git", runtime)

    hubs = [
        open_hub(store(), runtime, Settings(), actor=f"a{number}", state=tmp_path / f"state{number}", make=True)
        for number in range(4)
    ]
    for name in ("w1", "w2"):
        worker(hubs[0], name)
    todo = [f"s{number}" for number in range(50)]
    made: list[str] = []
    refused: list[str] = []
    barrier = threading.Barrier(20)

    def run(number: int) -> None:
        barrier.wait()
        for session_id in todo[number::20]:
            try:
                made.append(hubs[number % 4].sessions.create(session_id).id)
            except NoCapacity as full:
                refused.append(full.message)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (10, 40) == (len(made), len(refused))
    assert all("w1 has no room (5 of 5 sessions), w2 has no room (5 of 5 sessions)" in one for one in refused)
    assert sorted(made) == sorted(ids(hubs[0].sessions.list()))
    fleet = store()
    check_sessions(Snapshot(fleet, FLEET, fleet.heads().get(FLEET)))
    for hub in hubs:
        hub.close()
