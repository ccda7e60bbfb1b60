"""What workers say of their sessions with their ticks, fenced by the epoch of each session's placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ghcoord.coord.context import put_worker
from ghcoord.coord.layout import FLEET
from ghcoord.coord.sessions import records
from ghcoord.model import session as model
from ghcoord.model.session import Session, SessionReport
from ghcoord.model.worker import Worker
from ghcoord.store.tx import Tx


def apply(tx: Tx, worker: Worker, reports: Sequence[SessionReport]) -> bool:
    """Write what all need to know at once: which sessions were opened, and which are lost. Whether there was any.

    Reports of a session that ``worker`` does not have under that epoch are passed over.
    """
    gone: list[str] = []
    changed = False
    for report in reports:
        session = _fenced(tx, worker.id, report)
        if session is None:
            continue
        if report.lost:
            records.lose(tx, session, report.lost)
            gone.append(session.id)
        elif report.opened and (after := model.opened(session, report, now=tx.now)) != session:
            records.put(tx, model.noted(after, report, now=tx.now))
            tx.event(FLEET, "session opened", session=session.id, worker=worker.id, checkpoint=report.restored_from)
            changed = True
    if gone:
        put_worker(tx, records.without(worker, gone))
    return changed or bool(gone)


def note(tx: Tx, worker_id: str, reports: Sequence[SessionReport], touched: Mapping[str, float]) -> None:
    """Write the rest, which goes along with a commit: use, last calls, and when callers last looked at a session."""
    for report in reports:
        session = _fenced(tx, worker_id, report)
        if session is not None and (after := model.noted(session, report, now=tx.now)) != session:
            records.put(tx, after)
    for session_id, at in touched.items():
        session = records.get(tx, session_id)
        if session is not None and (after := model.touched(session, at, now=tx.now)) != session:
            records.put(tx, after)


def _fenced(tx: Tx, worker_id: str, report: SessionReport) -> Session | None:
    session = records.get(tx, report.id)
    if session is None or session.worker_id != worker_id or session.epoch != report.epoch:
        return None
    return session
