"""What follows from the sessions' records made anew, after a person broke it: who has which, and who waits."""

from __future__ import annotations

from ghcoord.coord import layout
from ghcoord.coord.context import SESSION_TABLE, WORKER_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.sessions import records
from ghcoord.model.session import Session, SessionState
from ghcoord.model.worker import Worker
from ghcoord.store.tx import Tx


def rebuild(tx: Tx) -> None:
    """Let workers' lists, the index of waiting sessions and the calls agree with the sessions' own records."""
    if not any(tx.names(FLEET, folder) for folder in (layout.SESSIONS, layout.IN_SESSIONS, layout.UNPLACED)):
        _lists(tx, {worker.id: worker for worker in WORKER_TABLE.all(tx, FLEET)}, {})
        return
    workers = {worker.id: worker for worker in WORKER_TABLE.all(tx, FLEET)}
    sessions: dict[str, Session] = {}
    for session in list(SESSION_TABLE.all(tx, FLEET)):
        if session.worker_id is not None and session.worker_id not in workers:
            session = records.displace(tx, session, f"its worker {session.worker_id} is no longer registered")
        elif session.worker_id is None and session.state is SessionState.ACTIVE:
            session = records.displace(tx, session, "it was taken off its worker by hand")
        sessions[session.id] = session
    _lists(tx, workers, sessions)
    waiting = {layout.unplaced_path(one.id) for one in sessions.values() if one.is_waiting}
    present = set(tx.walk(FLEET, layout.UNPLACED))
    for path in present - waiting:
        tx.delete(FLEET, path)
    for path in waiting - present:
        tx.write(FLEET, path, layout.MARKER)
    _calls(tx, sessions)


def _lists(tx: Tx, workers: dict[str, Worker], sessions: dict[str, Session]) -> None:
    for worker in workers.values():
        own = {one.id for one in sessions.values() if one.worker_id == worker.id}
        listed = tuple(one for one in dict.fromkeys(worker.session_ids) if one in own)
        listed += tuple(sorted(own - set(listed)))
        if listed != worker.session_ids:
            more = max(0, worker.active_sessions - len(worker.session_ids))  # what it claims besides
            changed = {"session_ids": listed, "active_sessions": len(listed) + more}
            WORKER_TABLE.put(tx, FLEET, worker.id, worker.model_copy(update=changed))


def _calls(tx: Tx, sessions: dict[str, Session]) -> None:
    """End the calls of sessions that are gone or lost."""
    named = {layout.session_top(one.id): one for one in sessions.values()}
    for name in list(tx.names(FLEET, layout.IN_SESSIONS)):
        session = named.get(f"{layout.IN_SESSIONS}/{name}")
        if session is not None and session.state is not SessionState.LOST:
            continue
        reason = "its session is gone" if session is None else f"its session was lost: {session.lost_because}"
        for session_id in sorted(records.called_in(tx, name)):
            if layout.session_top(session_id) == f"{layout.IN_SESSIONS}/{name}":
                records.end_calls(tx, session_id, reason)
