"""Why a queued task waits: what no worker offers, who is busy, which limit is reached, where its session is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ghcoord.coord.context import GATE_TABLE, WORKER_TABLE
from ghcoord.coord.sessions import placing, records
from ghcoord.errors import Corrupt, InvalidName, NewerSchema
from ghcoord.model.lease import Judge
from ghcoord.model.placement import takes_tasks
from ghcoord.model.requirements import Need, has_capability
from ghcoord.model.session import Session, SessionState
from ghcoord.model.task import State, Task
from ghcoord.model.tier import Tier
from ghcoord.model.worker import Capacity, Worker, worker_key
from ghcoord.store.snapshot import Snapshot

SHOWN = 4
"""Workers that a reason names."""

START = "start one with 'ghcoord worker start'"


def why_waits(snapshot: Snapshot, task: Task, judge: Judge, now: float) -> str:
    """Why no worker runs the queued ``task`` at ``now`` (seconds), with what helps; empty when one is about to.

    Empty as well for a task in any other state, whose record says what it waits for.
    """
    if task.state is not State.QUEUED:
        return ""
    alive = [one for one in WORKER_TABLE.scan(snapshot) if one.alive and not judge(worker_key(one.id), one.lease, now)]
    alive.sort(key=lambda one: one.id)
    if task.session is not None:
        return _of_session(snapshot, task, task.session, alive)
    meant = task.assigned
    if meant is not None and (meant.until is None or meant.until.timestamp() > now):
        alive = [one for one in alive if one.id == meant.worker]
        if not alive:
            return f"it is meant for {meant.worker}, which is not alive: start it, or see 'ghcoord task assign --help'"
    taking = [one for one in alive if not one.calls_only]
    if alive and not taking:
        return f"the workers that are alive run calls of their own sessions only: {START}"
    return _of_workers(task.need, taking) or _of_gate(snapshot, task, now) or _of_slots(taking, task.need)


def _of_session(snapshot: Snapshot, task: Task, session_id: str, alive: Sequence[Worker]) -> str:
    session = records.find(snapshot, session_id)
    if session is None:
        return f"its session {session_id} is gone: cancel it"
    if session.state is SessionState.LOST:
        return f"its session {session_id} is lost: {session.lost_because}"
    if session.worker_id is None:
        return _unplaced(session, alive)
    worker = next((one for one in alive if one.id == session.worker_id), None)
    if worker is None:
        return (
            f"its session {session_id} is on {session.worker_id}, which is silent: it is taken from there when the "
            "lease of that worker is over and another one notices, or with 'ghcoord worker reap'"
        )
    return (
        _of_workers(task.need, [worker])
        or _of_gate(snapshot, task, worker.last_heartbeat.timestamp())
        or _of_slots([worker], task.need)
    )


def _unplaced(session: Session, alive: Sequence[Worker]) -> str:
    where = f"its session {session.id} is {session.state} and on no worker"
    refused = [f"{one.id} {why}" for one in alive if (why := placing.why_not(one, session))]
    if not alive:
        return f"{where}: {START}"
    if len(refused) < len(alive):
        return f"{where}: the next one that asks for work takes it"
    return f"{where}, and none can take it ({_named(refused)}): {START}"


def _of_gate(snapshot: Snapshot, task: Task, now: float) -> str:
    if task.limit is None:
        return ""
    try:
        gate = GATE_TABLE.find(snapshot, task.limit.key)
    except (Corrupt, NewerSchema, InvalidName):
        return ""
    if gate is None or gate.room(now) > 0:
        return ""
    if gate.full:
        return f"{gate.running} tasks of the key {task.limit.key} run, which are all that may at a time"
    return f"the key {task.limit.key} has reached its rate: its next task starts when that allows it"


def _of_workers(need: Need, alive: Sequence[Worker]) -> str:
    """What of ``need`` none of the workers offers."""
    if not alive:
        return f"no worker is alive: {START}"
    left = list(alive)
    for what, meets, has, fix in _questions(need):
        able = [one for one in left if meets(one)]
        if not able:
            return f"needs {what}; the workers offer: {_named(f'{one.id} {has(one)}' for one in left)}: {fix}"
        left = able
    if not any(takes_tasks(one) for one in left):
        return f"the workers that could run it take nothing new: {_named(f'{one.id} is {_mood(one)}' for one in left)}"
    return ""


_Question = tuple[str, Callable[[Worker], bool], Callable[[Worker], object], str]


def _questions(need: Need) -> Iterable[_Question]:
    """What is needed, whether a worker has it, what it has instead, and what helps."""
    fix = "start one that does, or see 'ghcoord worker list'"
    yield f"the tool {need.tool}", lambda one: need.tool in one.offer.tools, lambda one: _list(one.offer.tools), fix
    if need.type != need.tool:
        served = f"a worker that serves {need.type}"
        yield served, lambda one: need.type in one.offer.types, lambda one: _list(one.offer.types), fix
    cores = f"{need.cpu_cores} cores"
    yield cores, lambda one: need.cpu_cores <= one.offer.cpu_cores, lambda one: one.offer.cpu_cores, fix
    memory = f"{need.memory_mb} MiB"
    yield memory, lambda one: need.memory_mb <= one.offer.memory_mb, lambda one: one.offer.memory_mb, fix
    for name in need.capabilities:

        def has(one: Worker, name: str = name) -> bool:
            return has_capability(one.offer, name)

        yield name, has, lambda one: _list(f"{k}={v}" for k, v in sorted(one.offer.labels.items())), fix
    if need.tier is not Tier.NONE:
        weaker = "partial" if need.tier is Tier.FULL else "none"
        how = f"start a worker with bubblewrap or submit with --sandbox {weaker}"
        tier = f"a {need.tier} sandbox"
        yield tier, lambda one: need.fits(one.offer), lambda one: one.tier, how


def _of_slots(alive: Sequence[Worker], need: Need) -> str:
    able = [one for one in alive if need.met_by(one.offer) and takes_tasks(one)]
    if any(one.capacity.available_slots > 0 for one in able):
        return ""
    busy = _named(f"{one.id} {_in_use(one.capacity)} slots" for one in able)
    return f"all workers that could run it are busy: {busy}"


def _in_use(capacity: Capacity) -> str:
    """Slots taken: a worker may have more tasks than slots, leased ahead."""
    return f"{min(capacity.active_tasks, capacity.max_tasks)} of {capacity.max_tasks}"


def _mood(worker: Worker) -> str:
    return "draining" if worker.drain_requested or worker.status == "draining" else worker.health_status


def _list(names: Iterable[str]) -> str:
    found = list(names)
    return "/".join(found[:SHOWN]) + ("/…" if len(found) > SHOWN else "") if found else "nothing of the kind"


def _named(parts: Iterable[str]) -> str:
    found = list(parts)
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
