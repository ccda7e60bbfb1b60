"""A worker's tick: finished results, new leases and its renewal, in one commit.

Nothing to say and no renewal due: no commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from ghcoord.coord import layout
from ghcoord.coord.context import WORKER_TABLE, Context, put_worker
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import counts, leasing, records, upkeep
from ghcoord.coord.sessions import placing, reports
from ghcoord.coord.sessions import records as session_records
from ghcoord.errors import Corrupt, NewerSchema, WorkerReplaced
from ghcoord.model import worker as model
from ghcoord.model.codec import stamp
from ghcoord.model.session import SessionReport
from ghcoord.model.task import Progress, State, Task, TaskResult
from ghcoord.model.worker import Health, Worker, WorkerStatus
from ghcoord.store.tx import Tx

RENEWED = "worker renewed"
"""Event of a commit that only renews: views of recent events leave it out."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A task's end, under the lease that it ran with; its ``type`` is remembered of the worker."""

    task_id: str
    token: int
    result: TaskResult
    type: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """A lease given back before or without a result."""

    task_id: str
    token: int
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a running task last said.

    ``fraction`` is between 0 and 1; ``seen`` counts the characters up to the end of ``tail``.
    """

    task_id: str
    token: int
    fraction: float | None
    message: str
    tail: str
    seen: int


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker wants of one tick.

    ``want`` is how many more tasks it can take now, of which ``ahead`` would
    wait for a slot; ``health`` is published when there is anything to commit,
    and so is ``ttl``, the seconds that its lease has from then on.

    ``among`` workers the queued tasks are shared out: of those for which no
    slot is free it gets its part, though never fewer than ``least``.  ``room``
    are the bytes of task records that it holds at most.  Without ``upkeep``
    it leaves what is due to others, unless there is anything to commit.

    ``sessions`` is what it says of those that it has; ``adopt`` is how many
    more it would take now, of those that have calls and no worker.  Calls of
    the sessions in ``avoid`` are not leased: it could not open these just now.
    ``touched`` tells when its callers last looked at sessions, in seconds since
    the epoch.
    """

    worker_id: str
    token: int
    tools: tuple[str, ...] = ()
    want: int = 0
    ahead: int = 0
    renew: bool = False
    draining: bool = False
    finished: Sequence[Finished] = ()
    returned: Sequence[Returned] = ()
    said: Sequence[Said] = ()
    health: Health | None = None
    ttl: float | None = None
    among: int = 1
    least: int = 0
    room: int = leasing.HELD_BYTES
    upkeep: bool = True
    sessions: Sequence[SessionReport] = ()
    adopt: int = 0
    avoid: Sequence[str] = ()
    touched: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Reply:
    """What became of it.

    ``held`` maps the tasks that the hub says this worker holds to their tokens.
    ``lost`` says why the registration is no longer this worker's; ``replaced``
    that a newer one of the same id exists.  ``elsewhere`` counts tasks leased to
    others, ``queued`` those that wait for a worker; ``next_due`` is when there
    is something to do next, by the hub's clock; ``expects`` tells that tasks
    which were at work will go on by themselves.  ``sessions`` maps the sessions
    that this worker has, the adopted ones among them, to their epochs.
    ``revision`` is that of the tick's transaction.
    """

    leased: list[Task] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    cancel: list[str] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    drain: bool = False
    lost: str = ""
    replaced: bool = False
    elsewhere: int = 0
    queued: int = 0
    renewed: bool = False
    next_due: float | None = None
    expects: bool = False
    sessions: dict[str, int] = field(default_factory=dict)
    revision: int = 0


def beat(context: Context, beat: Beat, timeout: float = 30.0) -> Reply:
    """Run one tick against the hub."""
    near = (layout.worker_path(beat.worker_id), layout.leased_top(beat.worker_id), layout.QUEUE_RECORD)
    return context.transact((FLEET,), lambda tx: _beat(tx, beat), timeout, {FLEET: near})


def beat_along(context: Context, beat: Beat) -> Callable[[], Reply | None]:
    """A tick that goes along with the next commit to the fleet; see :meth:`ghcoord.store.transact.Transactor.ride`."""
    return context.transactor.ride((FLEET,), lambda tx: _beat(tx, beat))


def _beat(tx: Tx, beat: Beat) -> Reply:
    reply = Reply(revision=tx.revision)
    results = ((one.task_id, one.token, one.result) for one in beat.finished)
    reply.refused = leasing.finish(tx, beat.worker_id, results)
    leasing.give_back(tx, beat.worker_id, ((one.task_id, one.token, one.reason) for one in beat.returned))
    for said in beat.said:
        _progress(tx, beat.worker_id, said)
    try:
        worker = model.current(_read(tx, beat.worker_id), beat.worker_id, beat.token)
    except WorkerReplaced as lost:
        reply.lost, reply.replaced = lost.message, lost.code == model.REPLACED
        return reply
    reply.drain = worker.drain_requested
    commits = beat.renew or bool(beat.finished or beat.returned or beat.said)
    moved = reports.apply(tx, worker, beat.sessions)
    if beat.adopt > 0 and not (beat.draining or reply.drain):
        moved = bool(placing.adopt(tx, worker, beat.adopt)) or moved
    if moved:
        worker = _read(tx, beat.worker_id) or worker
    more = upkeep.run(tx) if beat.upkeep or commits else False
    held = leasing.leased_to(tx, beat.worker_id)
    if not (beat.draining or reply.drain):
        want, ahead = _part(tx, beat)
        reply.leased = leasing.lease(tx, worker, beat.tools, want, held, ahead, beat.room, beat.avoid)
        held += reply.leased
    reply.held = {task.id: task.lease.token for task in held if task.lease is not None}
    states = counts.read(tx).states
    reply.elsewhere = max(0, states.get(State.LEASED, 0) - len(held))
    reply.queued = states.get(State.QUEUED, 0)
    reply.cancel = [task.id for task in held if task.cancel_requested]
    reply.next_due = tx.now if more else upkeep.next_due(tx)
    reply.expects = more or upkeep.expects(tx)
    _update(tx, worker, beat, len(held), renew=commits or moved or bool(reply.leased), moved=moved, reply=reply)
    if reply.renewed:
        reports.note(tx, worker.id, beat.sessions, beat.touched)
    reply.sessions = {session.id: session.epoch for session in session_records.on(tx, worker)}
    return reply


def _part(tx: Tx, beat: Beat) -> tuple[int, int]:
    """How many tasks it gets at most, and for how many of them there would be no slot."""
    if beat.among <= 1 or not beat.ahead:
        return beat.want, beat.ahead
    part = max(beat.least, ceil(counts.read(tx).states.get(State.QUEUED, 0) / beat.among))
    free = beat.want - beat.ahead
    ahead = min(beat.ahead, max(0, part - free))
    return free + ahead, ahead


def _read(tx: Tx, worker_id: str) -> Worker | None:
    try:
        return WORKER_TABLE.get(tx, FLEET, worker_id)
    except (Corrupt, NewerSchema):
        return None


def _update(tx: Tx, worker: Worker, beat: Beat, held: int, *, renew: bool, moved: bool, reply: Reply) -> None:
    """Write the worker's record when there is anything to say; a commit that is made anyway renews for free."""
    if beat.draining or worker.drain_requested:
        status = WorkerStatus.DRAINING
    elif held >= worker.capacity.max_tasks > 0:
        status = WorkerStatus.BUSY
    else:
        status = WorkerStatus.ACTIVE
    capacity = worker.capacity.model_copy(update={"active_tasks": held})
    if not renew and status is worker.status and capacity == worker.capacity:
        return
    health = beat.health if beat.health is not None else worker.health
    ttl = beat.ttl if beat.ttl is not None else worker.ttl
    changes = {"status": status, "capacity": capacity, "health": health, "ttl": ttl}
    renewed = model.heartbeat(worker, now=tx.now, revision=tx.revision, **changes)
    ended = (one.type for one in beat.finished if one.task_id not in reply.refused)
    put_worker(tx, model.note_types(renewed, ended))
    if not (reply.leased or beat.finished or beat.returned or beat.said or moved):
        tx.event(FLEET, RENEWED, worker=worker.id)
    reply.renewed = True


def _progress(tx: Tx, worker_id: str, said: Said) -> None:
    task = records.get(tx, said.task_id)
    if task is None or task.lease is None or task.lease.worker != worker_id or task.lease.token != said.token:
        return
    progress = Progress(fraction=said.fraction, message=said.message, tail=said.tail, seen=said.seen, at=stamp(tx.now))
    changed = task.model_copy(update={"progress": progress})
    if records.fits(changed):
        records.put(tx, [(task, changed)])
