"""A worker's tick: finished results, new leases and its renewal, in one commit.

Nothing to say and no renewal due: no commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ghcoord.coord import queue
from ghcoord.coord.context import WORKER_TABLE, Context, put_worker
from ghcoord.coord.layout import FLEET, QUEUE_RECORD
from ghcoord.errors import Corrupt, NewerSchema, WorkerReplaced
from ghcoord.model import worker as model
from ghcoord.model.codec import stamp
from ghcoord.model.task import Progress, State, Task, TaskResult
from ghcoord.model.worker import Worker, WorkerStatus
from ghcoord.store.tx import Tx

RENEWED = "worker renewed"
"""Event of a commit that only renews: views of recent events leave it out."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A task's end, under the lease that it ran with."""

    task_id: str
    token: int
    result: TaskResult


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
    """What a worker wants of one tick. ``want`` is how many more tasks it can take now."""

    worker_id: str
    token: int
    tools: tuple[str, ...] = ()
    want: int = 0
    renew: bool = False
    draining: bool = False
    finished: Sequence[Finished] = ()
    returned: Sequence[Returned] = ()
    said: Sequence[Said] = ()


@dataclass(slots=True)
class Reply:
    """What became of it.

    ``held`` maps the tasks that the hub says this worker holds to their tokens.
    ``lost`` says why the registration is no longer this worker's; ``replaced``
    that a newer one of the same id exists.  ``elsewhere`` counts tasks leased to
    others; ``next_due`` is when the earliest back-off ends, by the hub's clock.
    """

    leased: list[Task] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    cancel: list[str] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    drain: bool = False
    lost: str = ""
    replaced: bool = False
    elsewhere: int = 0
    renewed: bool = False
    next_due: float | None = None


def beat(context: Context, beat: Beat, timeout: float = 30.0) -> Reply:
    """Run one tick against the hub."""
    return context.transact((FLEET,), lambda tx: _beat(tx, beat), timeout)


def _beat(tx: Tx, beat: Beat) -> Reply:
    reply = Reply()
    for one in beat.finished:
        refusal = queue.finish(tx, one.task_id, beat.worker_id, one.token, one.result)
        if refusal is not None:
            reply.refused[one.task_id] = refusal
    for back in beat.returned:
        queue.give_back(tx, back.task_id, beat.worker_id, back.token, back.reason)
    for said in beat.said:
        _progress(tx, beat.worker_id, said)
    try:
        worker = model.current(_read(tx, beat.worker_id), beat.worker_id, beat.token)
    except WorkerReplaced as lost:
        reply.lost, reply.replaced = lost.message, lost.code == model.REPLACED
        return reply
    reply.drain = worker.drain_requested
    if not (beat.draining or reply.drain):
        reply.leased = queue.lease(tx, beat.worker_id, beat.tools, beat.want)
    held = queue.leased_to(tx, beat.worker_id)
    reply.held = {task.id: task.lease.token for task in held if task.lease is not None}
    leased = queue.read_counts(tx.read(FLEET, QUEUE_RECORD))["counts"].get(State.LEASED, 0)
    reply.elsewhere = max(0, leased - len(held))
    reply.cancel = [task.id for task in held if task.cancel_requested]
    reply.next_due = queue.next_due(tx)
    changed = bool(beat.finished or beat.returned or beat.said or reply.leased)
    _update(tx, worker, beat, len(held), renew=beat.renew or changed, reply=reply)
    return reply


def _read(tx: Tx, worker_id: str) -> Worker | None:
    try:
        return WORKER_TABLE.get(tx, FLEET, worker_id)
    except (Corrupt, NewerSchema):
        return None


def _update(tx: Tx, worker: Worker, beat: Beat, held: int, *, renew: bool, reply: Reply) -> None:
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
    renewed = model.heartbeat(worker, now=tx.now, revision=tx.revision, status=status, capacity=capacity)
    put_worker(tx, renewed)
    if not (reply.leased or beat.finished or beat.returned or beat.said):
        tx.event(FLEET, RENEWED, worker=worker.id)
    reply.renewed = True


def _progress(tx: Tx, worker_id: str, said: Said) -> None:
    task = queue.get(tx, said.task_id)
    if task is None or task.lease is None or task.lease.worker != worker_id or task.lease.token != said.token:
        return
    progress = Progress(fraction=said.fraction, message=said.message, tail=said.tail, seen=said.seen, at=stamp(tx.now))
    changed = task.model_copy(update={"progress": progress})
    if queue.fits(changed):
        queue.put(tx, [(task, changed)])
