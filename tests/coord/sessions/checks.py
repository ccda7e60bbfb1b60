"""What must hold of sessions in every state of a hub, whatever happened."""

from __future__ import annotations

from typing import Any

from ghcoord.coord import layout
from ghcoord.coord.context import SESSION_TABLE, TASK_TABLE, WORKER_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.hub import Hub
from ghcoord.model.codec import stamp
from ghcoord.model.session import Checkpoint, Session, SessionReport, SessionState
from ghcoord.model.task import State
from ghcoord.model.worker import Capabilities
from ghcoord.store.snapshot import Snapshot
from tests.coord.world import Daemon, World

TOOLS = ("echo", "fs.read", "shell", "session.checkpoint")


def check_sessions(snapshot: Snapshot) -> None:
    """Workers' lists, the index of waiting sessions and the calls agree with the sessions' records."""
    sessions = {one.id: one for one in SESSION_TABLE.scan(snapshot)}
    workers = {one.id: one for one in WORKER_TABLE.scan(snapshot)}
    for worker in workers.values():
        own = sorted(one.id for one in sessions.values() if one.worker_id == worker.id)
        assert own == sorted(worker.session_ids), f"the list of {worker.id}"
        assert len(own) <= worker.active_sessions
        assert len(own) <= worker.max_sessions, f"{worker.id} has more sessions than it takes"
    for session in sessions.values():
        assert session.worker_id is None or session.worker_id in workers, f"{session.id} is on a worker that is gone"
        assert session.state is not SessionState.LOST or session.worker_id is None
        assert session.state is not SessionState.ACTIVE or session.worker_id is not None
    waiting = {layout.unplaced_path(one.id) for one in sessions.values() if one.is_waiting}
    assert waiting == {path for path, _ in snapshot.walk(layout.UNPLACED)}
    running: dict[str, int] = {}
    for task in TASK_TABLE.scan(snapshot):
        if task.session is None or task.ended:
            continue
        here = sessions.get(task.session)
        if task.state is not State.LEASED:
            assert here is not None, f"{task.id} waits in a session that is gone"
            assert here.state is not SessionState.LOST, f"{task.id} waits in a session that is lost"
        elif not task.cancel_requested:
            assert here is not None
            assert task.lease is not None
            assert here.worker_id == task.lease.worker, f"{task.id} runs where its session is not"
            running[here.id] = running.get(here.id, 0) + 1
    for session_id, count in running.items():
        assert count <= (sessions[session_id].limits.active_tasks or 4), f"{session_id} runs {count} calls"


def check_world(world: World) -> None:
    """All of it, and the queue's index."""
    world.check_index()
    check_sessions(world.snapshot(FLEET))


def worker(
    hub: Hub, name: str = "w1", *, tier: str = "full", max_sessions: int = 5, tools: tuple[str, ...] = TOOLS
) -> Daemon:
    """A worker that serves the tools of a session."""
    can = Capabilities(cpu_cores=4, memory_mb=4096, supported_task_types=tools, labels={"disk": "ssd"})
    return Daemon(hub, name, tools=tools, capabilities=can, tier=tier, max_sessions=max_sessions)


def saved(session: Session, name: str = "c1", **fields: Any) -> Checkpoint:
    """A checkpoint of ``session`` as its worker would record it."""
    given = {"created_at": stamp(1_700_000_000), "epoch": session.epoch, "worker": session.worker_id or "", **fields}
    return Checkpoint(id=name, **given)


def opened(session: Session, **fields: Any) -> SessionReport:
    """What the worker says when it has opened ``session``."""
    return SessionReport(id=session.id, epoch=session.epoch, opened=True, **fields)


def found(hub: Hub, session_id: str = "s1") -> Session:
    """The session, which must be there."""
    session = hub.sessions.get(session_id)
    assert session is not None
    return session


def active(hub: Hub, daemon: Daemon, session_id: str = "s1", **settings: Any) -> Session:
    """A new session that its worker has opened."""
    made = hub.sessions.create(session_id, worker=daemon.worker_id, **settings)
    daemon.beat(sessions=[opened(made)])
    return found(hub, session_id)
