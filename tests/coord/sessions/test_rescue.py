"""Where a session goes on when its worker dies: never in a state that was given up, nor in a stranger's."""

from __future__ import annotations

import io

import pytest

from ghcoord.errors import SessionLost
from ghcoord.hub import Hub
from ghcoord.model.session import SessionState
from tests.coord.sessions.checks import active, check_world, found, opened, saved, worker
from tests.coord.world import World, edited
from tests.execution.checkpoints.test_archives import GOOD, gz


def save(hub: Hub, name: str, **fields: object) -> None:
    """Record a checkpoint as the session's worker does."""
    session = found(hub, "s1")
    hub.sessions.record_checkpoint("s1", session.epoch, saved(session, name, **fields), 10)


def test_what_was_rolled_back_does_not_return_with_a_death(world: World, hub: Hub) -> None:
    """It goes on from the checkpoint that it was put back to, not from a later one that was given up."""
    daemon = worker(hub, "w1")
    active(hub, daemon, "s1")
    save(hub, "c1")
    save(hub, "c2")
    hub.sessions.restore("s1", "c1")
    daemon.beat(sessions=[opened(found(hub, "s1"), restored_from="c1")])
    assert SessionState.ACTIVE == found(hub, "s1").state
    world.runtime.advance(60)
    hub.workers.recover("w1")
    assert (SessionState.PARKED, "c1") == (found(hub, "s1").state, found(hub, "s1").restore_from)
    check_world(world)


def test_an_import_is_no_state_of_the_session(world: World, hub: Hub) -> None:
    """Until somebody restores it: a death before that loses the session, or takes it back to its own checkpoint."""
    daemon = worker(hub, "w1")
    for name in ("bare", "kept"):
        active(hub, daemon, name)
    session = found(hub, "kept")
    hub.sessions.record_checkpoint("kept", session.epoch, saved(session, "c1"), 10)
    for name in ("bare", "kept"):
        hub.sessions.import_checkpoint(name, io.BytesIO(gz(*GOOD)))
    world.runtime.advance(60)
    hub.workers.recover("w1")
    assert (SessionState.LOST, None) == (found(hub, "bare").state, found(hub, "bare").worker_id)
    assert (SessionState.PARKED, "c1") == (found(hub, "kept").state, found(hub, "kept").restore_from)
    with pytest.raises(SessionLost, match="restore it from a checkpoint"):
        hub.sessions.call("bare", "echo", {"message": "x"})


def test_after_a_deletion_it_starts_from_what_the_hub_has(world: World, hub: Hub) -> None:
    """Not from one that only a worker had which is gone."""
    daemon = worker(hub, "w1")
    active(hub, daemon, "s1")
    save(hub, "c1")
    save(hub, "c2")
    save(hub, "c3", published=False)
    hub.sessions.park("w1", {"s1": found(hub, "s1").epoch})
    assert "c2" == found(hub, "s1").restore_from
    hub.sessions.forget_checkpoint("s1", "c2")
    assert "c1" == found(hub, "s1").restore_from


def test_who_lacks_the_tool_does_not_take_the_session(world: World, hub: Hub) -> None:
    """Its call would wait there for ever: it is left for a worker that can run it."""
    worker(hub, "w1")
    made = hub.sessions.create("s1")
    call = hub.sessions.submit_call("s1", "shell", {"command": "true"})
    hub.sessions.park("w1", {"s1": made.epoch})
    hub.workers.deregister("w1")
    assert {} == worker(hub, "poor", tools=("echo",)).beat(5, adopt=5).sessions
    reply = worker(hub, "rich").beat(5, adopt=5)
    assert [call.id] == [task.id for task in reply.leased]
    check_world(world)


def test_a_session_that_people_took_off_its_worker_is_parked(world: World, hub: Hub) -> None:
    """Not left as if a worker had it, which nobody would ever take."""
    active(hub, worker(hub, "w1"), "s1")
    save(hub, "c1")
    files = world.files("fleet")
    path = next(path for path in files if path.endswith("/s1.json"))
    world.put("fleet", {path: edited(files[path], worker_id=None)})
    hub.sessions.merge_metadata("s1", {"a": 1})
    assert (SessionState.PARKED, None, "c1") == (
        found(hub, "s1").state,
        found(hub, "s1").worker_id,
        found(hub, "s1").restore_from,
    )
    check_world(world)
