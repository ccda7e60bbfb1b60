"""Which worker gets a session: one that is there, has room, and offers what the session needs; the fewest first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ghcoord.coord import layout
from ghcoord.coord.context import WORKER_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.coord.sessions import records
from ghcoord.errors import NoCapacity, NotFound, TooLarge
from ghcoord.ids import decode_component
from ghcoord.model.lease import Judge
from ghcoord.model.placement import takes_tasks
from ghcoord.model.requirements import Need, Offer, Requirements, has_capability
from ghcoord.model.session import Session
from ghcoord.model.tier import Tier, rank_of
from ghcoord.model.worker import Worker, WorkerStatus, worker_key
from ghcoord.store.tx import Tx

SHOWN = 5
"""Workers that a message names."""


CALLS_SEEN = 20
"""Waiting calls of a session that are looked at to learn whether a worker has their tools."""


def choose(tx: Tx, session: Session, judge: Judge, *, only: str | None = None) -> Worker:
    """The worker for a session that has none: the one with the fewest; ``only`` names one that it must be.

    Raises ``NotFound`` for an ``only`` that is not there, and ``NoCapacity`` saying why none can have it.
    """
    if only is not None:
        workers = [one for one in [records.worker_of(tx, only)] if one is not None and one.alive]
        if not workers:
            raise NotFound(f"there is no worker {only!r} that is alive: see 'ghcoord worker list'")
    else:
        workers = [one for one in WORKER_TABLE.all(tx, FLEET) if one.alive]
    able = []
    refused = []
    for worker in sorted(workers, key=lambda one: one.id):
        silent = judge(worker_key(worker.id), worker.lease, tx.now)
        reason = "is silent" if silent else why_not(worker, session, named=only is not None)
        if reason:
            refused.append(f"{worker.id} {reason}")
        else:
            able.append(worker)
    if not able:
        raise NoCapacity(_nobody(session, refused))
    return min(able, key=lambda one: (len(one.session_ids), one.status is WorkerStatus.BUSY, one.id))


def _nobody(session: Session, refused: list[str]) -> str:
    if not refused:
        return "there is no worker for the session: start one with 'ghcoord worker start'"
    named = ", ".join(refused[:SHOWN]) + (f", and {len(refused) - SHOWN} more" if len(refused) > SHOWN else "")
    return f"no worker can have the session {session.id}: {named}; start another with 'ghcoord worker start'"


def why_not(worker: Worker, session: Session, *, named: bool = False) -> str:
    """Why a worker that is there cannot have another session, this one; empty when it can.

    ``named``: the session is meant for this very worker.
    """
    if worker.calls_only and not named:
        return "has no slots: it takes sessions that are meant for it only"
    if worker.drain_requested or worker.status is WorkerStatus.DRAINING:
        return "is draining"
    if not takes_tasks(worker):
        return "is unhealthy"
    if rank_of(worker.tier) < session.sandbox.rank:
        return f"offers the sandbox tier {worker.tier}, not {session.sandbox}"
    missing = lacks(worker.offer, session.requirements)
    if missing:
        return missing
    if worker.session_room <= 0:
        return f"has no room ({max(worker.active_sessions, len(worker.session_ids))} of {worker.max_sessions} sessions)"
    return ""


def lacks(offer: Offer, requirements: Requirements | None) -> str:
    """What of ``requirements`` a worker with this offer does not have, but for the sandbox; empty when it has all."""
    need = Need.of("", "", requirements)
    if need.cpu_cores > offer.cpu_cores:
        return f"has {offer.cpu_cores} cores, not {need.cpu_cores}"
    if need.memory_mb > offer.memory_mb:
        return f"has {offer.memory_mb} MiB, not {need.memory_mb}"
    missing = next((one for one in need.capabilities if not has_capability(offer, one)), None)
    return "" if missing is None else f"lacks {missing}"


def fits_still(tier: str, session: Session) -> bool:
    """Whether a worker whose sandbox has ``tier`` may go on with a session that it has."""
    return rank_of(tier) >= Tier(session.sandbox).rank


# -- sessions that wait for a worker


def adopt(tx: Tx, worker: Worker, most: int) -> list[Session]:
    """Give ``worker`` at most ``most`` of the sessions that no worker has and that have calls to be run."""
    taken: list[Session] = []
    room = min(most, worker.session_room)
    if room <= 0 or not takes_tasks(worker):
        return taken
    for session in _waiting(tx):
        if len(taken) >= room:
            break
        if why_not(worker, session) or not _can_run(tx, worker, session):
            continue
        try:
            taken.append(records.place(tx, session, worker))
        except TooLarge:
            break  # its record holds no more names
    return taken


def _can_run(tx: Tx, worker: Worker, session: Session) -> bool:
    """Whether the worker has the tool of one of the first calls that wait: else they would wait there for ever."""
    tools = worker.offer.tools
    return not tools or any(call.tool in tools for call in islice(records.open_calls(tx, session.id), CALLS_SEEN))


def _waiting(tx: Tx) -> Iterator[Session]:
    """Sessions without a worker that have open calls."""
    names = tx.names(FLEET, layout.UNPLACED)
    if not names:
        return
    called = set(tx.names(FLEET, layout.IN_SESSIONS))
    for name in names:
        if name not in called:
            continue
        session = records.get(tx, _id_of(tx, name))
        if session is None or not session.is_waiting or layout.unplaced_path(session.id) != f"{layout.UNPLACED}/{name}":
            tx.delete(FLEET, f"{layout.UNPLACED}/{name}")
        elif records.has_calls(tx, session.id):
            yield session


def _id_of(tx: Tx, component: str) -> str:
    """The session behind a name in the index; one whose name had to be cut from one of its calls."""
    known = decode_component(component)
    if known is not None:
        return known
    return min(records.called_in(tx, component), default="")
