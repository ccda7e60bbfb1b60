"""Sessions inside a transaction: the record, the worker's own list, and the calls, which all change together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ghcoord.coord import layout
from ghcoord.coord.context import SESSION_TABLE, WORKER_TABLE, put_worker
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import lookup, records, releasing
from ghcoord.errors import Corrupt, IllegalTransition, InvalidName, NewerSchema, NotFound, SessionLost
from ghcoord.ids import check_id
from ghcoord.model import session as model
from ghcoord.model import steps
from ghcoord.model.session import Session, SessionState
from ghcoord.model.task import State, Task
from ghcoord.model.worker import Worker
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

TOLD = 200
"""Tasks that are told in the same commit that a call which they wait for was cancelled; workers tell the others."""


def get(tx: Tx, session_id: str) -> Session | None:
    """The session, or ``None`` when there is none or a person broke its record."""
    try:
        return SESSION_TABLE.get(tx, FLEET, session_id)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def need(tx: Tx, session_id: str) -> Session:
    """The session; raises ``NotFound``, and ``Corrupt`` when a person broke its record."""
    try:
        session = SESSION_TABLE.get(tx, FLEET, session_id)
    except InvalidName:
        session = None
    if session is None:
        raise no_such(session_id)
    return session


def usable(tx: Tx, session_id: str) -> Session:
    """The session, if calls may be queued in it. Raises ``NotFound``, and ``SessionLost`` when its files are gone."""
    session = need(tx, session_id)
    if session.state is SessionState.LOST:
        raise gone(session)
    return session


def check_retry(tx: Tx, task: Task) -> None:
    """Raises ``IllegalTransition`` for a call that is to be queued again in a session that is gone or lost."""
    session = get(tx, task.session) if task.session is not None else None
    if task.session is not None and (session is None or session.state is SessionState.LOST):
        how = "gone" if session is None else "lost"
        raise IllegalTransition(f"task {task.id} cannot be retried: its session {task.session} is {how}")


def gone(session: Session) -> SessionLost:
    """The error for a session whose files are gone."""
    how = "restore it from a checkpoint" if session.checkpoints else "create another"
    return SessionLost(f"the session {session.id} was lost: {session.lost_because}; {how}", session.id)


def no_such(session_id: str) -> NotFound:
    """The error for a session that is not there."""
    return NotFound(f"there is no session {session_id[:128]!r}: see 'ghcoord session list'")


def no_checkpoint(session: Session, checkpoint_id: str) -> NotFound:
    """The error for a checkpoint that the session does not have."""
    return NotFound(
        f"the session {session.id} has no checkpoint {checkpoint_id[:64]!r}: "
        f"see 'ghcoord session checkpoint {session.id} --list'"
    )


def find(snapshot: Snapshot, session_id: str) -> Session | None:
    """As :func:`get`, outside of a transaction."""
    try:
        return SESSION_TABLE.find(snapshot, session_id)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def every(snapshot: Snapshot) -> list[Session] | None:
    """All sessions; ``None`` while one cannot be read or was set aside: who decides by all of them must wait."""
    sessions = list(SESSION_TABLE.scan(snapshot))
    if len(sessions) != sum(1 for _ in snapshot.walk(layout.SESSIONS)):
        return None
    aside = (path.partition("/")[2] for path, _ in snapshot.walk(f"{layout.BROKEN}/{layout.SESSIONS}"))
    return None if any(snapshot.entry(path) is None for path in aside if _is_record(path)) else sessions


def _is_record(path: str) -> bool:
    return path.endswith(".json") and not path.endswith(".reason.json") and path.count("/") == 3


def find_worker(snapshot: Snapshot, worker_id: str | None) -> Worker | None:
    """As :func:`worker_of`, outside of a transaction."""
    try:
        return None if worker_id is None else WORKER_TABLE.find(snapshot, worker_id)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def put(tx: Tx, session: Session) -> Session:
    """Write a session, and note whether it waits for a worker."""
    SESSION_TABLE.put(tx, FLEET, session.id, session)
    if session.is_waiting:
        tx.write(FLEET, layout.unplaced_path(session.id), layout.MARKER)
    else:
        tx.delete(FLEET, layout.unplaced_path(session.id))
    return session


def is_id(text: str) -> bool:
    """Whether ``text`` may be a session's id: people write lists by hand."""
    try:
        return bool(check_id(text, "session id"))
    except InvalidName:
        return False


# -- workers


def worker_of(tx: Tx, worker_id: str) -> Worker | None:
    """The worker, or ``None`` when there is none or a person broke its record."""
    try:
        return WORKER_TABLE.get(tx, FLEET, worker_id)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def on(tx: Tx, worker: Worker) -> Iterator[Session]:
    """The sessions that ``worker`` has, by its own list and by their records."""
    if worker.session_ids and tx.is_far(FLEET):
        tx.near(FLEET, [SESSION_TABLE.path(one) for one in worker.session_ids if is_id(one)])
    for session_id in worker.session_ids:
        session = get(tx, session_id)
        if session is not None and session.worker_id == worker.id:
            yield session


def with_calls(tx: Tx, worker: Worker) -> list[str]:
    """Ids of the sessions of ``worker`` that have open calls."""
    busy = [one for one in worker.session_ids if tx.names(FLEET, layout.session_top(one))]
    return [session.id for session in on(tx, worker.model_copy(update={"session_ids": tuple(busy)}))] if busy else []


def of_gone(tx: Tx, worker_id: str) -> list[Session]:
    """The sessions that say that they are on a worker whose own record is no longer there. Reads all sessions."""
    return [session for session in SESSION_TABLE.all(tx, FLEET) if session.worker_id == worker_id]


def place(tx: Tx, session: Session, worker: Worker) -> Session:
    """Give a session, which no worker has, to ``worker``; it has another epoch from then on."""
    add_to(tx, worker, [session.id])
    made = put(tx, model.placed(session, worker.id, revision=tx.revision))
    tx.event(FLEET, "session placed", session=session.id, worker=worker.id, epoch=made.epoch, state=str(made.state))
    return made


def take_from(tx: Tx, session: Session) -> None:
    """Take a session off the list of its worker."""
    worker = worker_of(tx, session.worker_id) if session.worker_id is not None else None
    if worker is not None and session.id in worker.session_ids:
        put_worker(tx, without(worker, [session.id]))


def add_to(tx: Tx, worker: Worker, session_ids: Iterable[str]) -> None:
    """Put sessions on the list of ``worker``."""
    present = worker_of(tx, worker.id) or worker
    more = tuple(one for one in session_ids if one not in present.session_ids)
    listed = (*present.session_ids, *more)
    count = max(present.active_sessions + len(more), len(listed))
    WORKER_TABLE.put(tx, FLEET, worker.id, present.model_copy(update={"session_ids": listed, "active_sessions": count}))


def without(worker: Worker, session_ids: Collection[str]) -> Worker:
    """``worker`` without some of its sessions."""
    left = tuple(one for one in worker.session_ids if one not in session_ids)
    count = max(len(left), worker.active_sessions - (len(worker.session_ids) - len(left)))
    return worker.model_copy(update={"session_ids": left, "active_sessions": count})


def displace(tx: Tx, session: Session, why: str) -> Session:
    """Leave a session without its worker, off whose list the caller takes it; one that is lost ends its calls."""
    return _settled(tx, session, model.displaced(session, why))


def lose(tx: Tx, session: Session, why: str) -> Session:
    """Note that the files of a session are gone; the caller takes it off its worker's list."""
    return _settled(tx, session, model.lost(session, why))


def _settled(tx: Tx, before: Session, after: Session) -> Session:
    put(tx, after)
    if after.state is SessionState.LOST:
        end_calls(tx, before.id, f"the session {before.id} was lost: {after.lost_because}")
    kind = "session lost" if after.state is SessionState.LOST else "session parked"
    tx.event(
        FLEET,
        kind,
        session=before.id,
        worker=before.worker_id,
        checkpoint=after.restore_from,
        reason=after.lost_because or None,
    )
    return after


def displace_all(tx: Tx, worker_id: str, worker: Worker | None, why: str) -> int:
    """Leave all sessions of a worker without it; returns how many. The caller writes the worker's record."""
    held = list(on(tx, worker)) if worker is not None else of_gone(tx, worker_id)
    for session in held:
        displace(tx, session, why)
    return len(held)


# -- calls


def open_calls(tx: Tx, session_id: str) -> Iterator[Task]:
    """The calls of a session that have not ended, in the order in which they came."""
    top = f"{layout.session_top(session_id)}/{layout.OPEN_CALLS}"
    for path in list(tx.walk(FLEET, top)):
        task = lookup.get(tx, path.rpartition("/")[2].partition("-")[2])
        if task is not None and task.session == session_id and not task.ended:
            yield task


def called_in(tx: Tx, component: str) -> set[str]:
    """The sessions whose calls lie in one folder of the index: by its name one, whatever people put there."""
    top = f"{layout.IN_SESSIONS}/{component}/{layout.OPEN_CALLS}"
    found = (lookup.get(tx, path.rpartition("/")[2].partition("-")[2]) for path in tx.walk(FLEET, top))
    return {task.session for task in found if task is not None and task.session is not None}


def has_calls(tx: Tx, session_id: str) -> bool:
    """Whether a call of the session has not ended."""
    return any(True for _ in open_calls(tx, session_id))


def end_calls(tx: Tx, session_id: str, reason: str, limit: int | None = None) -> bool:
    """Cancel the calls of a session; running ones are asked to end. Returns whether ``limit`` left some over."""
    changes: list[tuple[Task, Task]] = []
    more = False
    for task in open_calls(tx, session_id):
        if task.state is State.LEASED and task.cancel_requested:
            continue
        if limit is not None and len(changes) >= limit:
            more = True
            break
        changes.append((task, steps.cancel(task, reason[:500], now=tx.now)))
    if changes:
        records.put(tx, changes)
        tx.event(FLEET, f"{len(changes)} calls cancelled", session=session_id, reason=reason[:200])
        releasing.work(tx, TOLD)
    return more


def destroy(tx: Tx, session: Session, by: str, why: str) -> None:
    """Remove a session with all that was kept about it here; its worker's list is left to the caller."""
    end_calls(tx, session.id, why)
    for path in list(tx.walk(FLEET, layout.called_top(session.id))):
        tx.delete(FLEET, path)
    SESSION_TABLE.remove(tx, FLEET, session.id)
    tx.delete(FLEET, layout.unplaced_path(session.id))
    tx.event(FLEET, "session destroyed", session=session.id, worker=session.worker_id, by=by)
