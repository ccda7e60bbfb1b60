"""Which worker gets a task, which task a worker gets, and what evens out: pure functions, ties decided by id.

A worker is considered when it is active, not draining, not unhealthy, has a
free slot, and offers what the task needs.  Of those, a strategy takes

``round_robin``
    the one after the worker that was chosen last, in the order of their ids;
``least_loaded``
    the one with the smallest share of its slots in use;
``capacity_based``
    one by the task's id, over many tasks in proportion to the free slots;
``affinity``
    the one that lately ran most tasks of the type; the least loaded of equal ones;
``adaptive``
    while less than half of the slots are in use, by affinity among those with
    nothing against them; from then on the one whose share would be smallest,
    with half a share more where the worker is degraded and a quarter for each
    attempt of this very task that did not end well there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ghcoord.model import steps
from ghcoord.model.task import Assignment, State, Task
from ghcoord.model.worker import UNHEALTHY, Worker, WorkerStatus

IMBALANCED_ABOVE = 30.0
"""Percentage points between the most and the least used worker above which the load is imbalanced (dx:820)."""

ADAPT_AT = 0.5
"""Share of the slots in use from which ``adaptive`` spreads the load rather than keeping types together."""

DEGRADED_PENALTY = 0.5
"""What being degraded counts for ``adaptive``, in shares of a worker's slots."""

ATTEMPT_PENALTY = 0.25
"""What an attempt of the task that failed or was lost there counts, at most four of them."""

MOST_PENALISED = 4

_WELL = frozenset({"succeeded", "given back", "cancelled"})


class Seat(NamedTuple):
    """A worker and how many queued tasks are meant for it beside those that it holds."""

    worker: Worker
    assigned: int = 0

    @property
    def capacity(self) -> int:
        return self.worker.capacity.max_tasks

    @property
    def load(self) -> int:
        """Tasks that it holds or that are meant for it."""
        return self.worker.capacity.active_tasks + self.assigned

    @property
    def free(self) -> int:
        """Slots that nothing is meant for."""
        return max(0, self.capacity - self.load)

    def share(self, more: int = 0) -> float:
        """The part of its slots that is spoken for, with ``more`` tasks; above 1 when tasks have to wait."""
        return (self.load + more) / self.capacity if self.capacity else math.inf


# -- who may


def takes_tasks(worker: Worker) -> bool:
    """Whether it is to be given anything new at all."""
    able = worker.status in (WorkerStatus.ACTIVE, WorkerStatus.BUSY)
    return able and not worker.drain_requested and worker.health_status != UNHEALTHY


def suits(worker: Worker, task: Task, now: float) -> bool:
    """Whether the worker offers what the task needs, has its session, and nobody else is meant to run it."""
    meant = task.assigned
    free = meant is None or meant.worker == worker.id or (meant.until is not None and meant.until.timestamp() <= now)
    here = task.session is None or task.session in worker.session_ids
    return free and here and task.need.met_by(worker.offer)


def eligible(seat: Seat, task: Task, now: float) -> bool:
    """Whether the task may be given to this worker: it suits, takes tasks, is not busy and has a slot left."""
    worker = seat.worker
    ready = takes_tasks(worker) and worker.status is not WorkerStatus.BUSY and seat.free > 0
    return ready and suits(worker, task, now)


# -- a worker for a task


def choose(strategy: str, task: Task, seats: Iterable[Seat], *, now: float, last: str = "") -> Worker | None:
    """The worker that ``strategy`` gives ``task`` to, or ``None``; ``last`` is the id of the one chosen last."""
    able = sorted((seat for seat in seats if eligible(seat, task, now)), key=lambda seat: seat.worker.id)
    return _STRATEGIES[strategy](task, able, last).worker if able else None


def _round_robin(task: Task, able: Sequence[Seat], last: str) -> Seat:
    return next((seat for seat in able if seat.worker.id > last), able[0])


def _least_loaded(task: Task, able: Sequence[Seat], last: str) -> Seat:
    return min(able, key=lambda seat: (seat.share(), seat.load, seat.worker.id))


def _capacity_based(task: Task, able: Sequence[Seat], last: str) -> Seat:
    def score(seat: Seat) -> float:
        # Weighted rendezvous hashing: each worker wins in proportion to its weight, whoever the others are.
        digest = hashlib.sha256(f"{task.id}\0{seat.worker.id}".encode()).digest()
        return -math.log((int.from_bytes(digest[:8]) + 1) / (2**64 + 1)) / seat.free

    return min(able, key=lambda seat: (score(seat), seat.worker.id))


def _affinity(task: Task, able: Sequence[Seat], last: str) -> Seat:
    return min(able, key=lambda seat: (-ran(seat.worker, task), seat.share(), seat.load, seat.worker.id))


def _adaptive(task: Task, able: Sequence[Seat], last: str) -> Seat:
    against = {seat.worker.id: _penalty(seat.worker, task) for seat in able}
    if sum(seat.load for seat in able) < ADAPT_AT * sum(seat.capacity for seat in able):
        least = min(against.values())
        return _affinity(task, [seat for seat in able if against[seat.worker.id] == least], last)
    return min(able, key=lambda seat: (seat.share(1) + against[seat.worker.id], seat.worker.id))


def _penalty(worker: Worker, task: Task) -> float:
    bad = sum(one.worker == worker.id and one.outcome not in _WELL for one in task.history)
    degraded = DEGRADED_PENALTY if worker.health_status == "degraded" else 0.0
    return degraded + ATTEMPT_PENALTY * min(bad, MOST_PENALISED)


def ran(worker: Worker, task: Task) -> int:
    """How many tasks of this one's type the worker has lately ended."""
    return worker.recent_types.get(task.need.type, 0)


_STRATEGIES: Mapping[str, Callable[[Task, Sequence[Seat], str], Seat]] = {
    "round_robin": _round_robin,
    "least_loaded": _least_loaded,
    "capacity_based": _capacity_based,
    "affinity": _affinity,
    "adaptive": _adaptive,
}

STRATEGIES = tuple(_STRATEGIES)
"""Names of the strategies."""

KEEPING_TYPES = frozenset({"affinity", "adaptive"})
"""Strategies under which a worker prefers, among tasks of equal priority, types that it has run."""


# -- a task for a worker


def next_task(strategy: str, seat: Seat, tasks: Iterable[Task], *, now: float) -> Task | None:
    """The task that the worker gets first: highest priority, with some strategies by what it ran, then by place.

    ``None`` when it takes nothing, has no slot left, or none of the queued ``tasks`` suits.
    """
    worker = seat.worker
    if not takes_tasks(worker) or worker.capacity.available_slots <= 0:
        return None
    able = [task for task in tasks if task.state is State.QUEUED and suits(worker, task, now)]
    weight = ran if strategy in KEEPING_TYPES else _never
    return min(able, key=lambda task: (-task.priority, -weight(worker, task), task.sequence, task.id), default=None)


def _never(worker: Worker, task: Task) -> int:
    return 0


# -- the load, and what evens it out


class WorkerLoad(NamedTuple):
    """One worker's load. ``assigned`` queued tasks are meant for it beside the ``active_tasks`` that it holds.

    ``utilization_percent`` counts both, up to its slots.
    """

    worker_id: str
    active_tasks: int
    assigned: int
    capacity: int
    utilization_percent: float


class LoadDistribution(NamedTuple):
    """How the load lies on the workers that take tasks; ``spread`` is in percentage points."""

    total_capacity: int
    utilized_capacity: int
    utilization_percent: float
    worker_loads: tuple[WorkerLoad, ...]
    spread: float
    imbalanced: bool


def distribution(seats: Iterable[Seat]) -> LoadDistribution:
    """The load of those workers that take tasks; imbalanced when it differs by more than 30 points."""
    taking = sorted((seat for seat in seats if takes_tasks(seat.worker)), key=lambda seat: seat.worker.id)
    total = sum(seat.capacity for seat in taking)
    used = sum(min(seat.load, seat.capacity) for seat in taking)
    loads = tuple(
        WorkerLoad(
            seat.worker.id,
            seat.worker.capacity.active_tasks,
            seat.assigned,
            seat.capacity,
            _percent(min(seat.load, seat.capacity), seat.capacity),
        )
        for seat in taking
    )
    percents = [one.utilization_percent for one in loads if one.capacity]
    spread = round(max(percents) - min(percents), 1) if percents else 0.0
    return LoadDistribution(total, used, _percent(used, total), loads, spread, spread > IMBALANCED_ABOVE)


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


class Move(NamedTuple):
    """A queued task that was meant for one worker and is for another, or for anybody."""

    task_id: str
    from_worker: str
    to_worker: str | None


def plan_moves(seats: Iterable[Seat], movable: Iterable[Task], *, now: float) -> tuple[list[Move], list[Seat]]:
    """What evens out the load, and how the seats are afterwards.

    ``movable`` are queued tasks with an assignment.  Pinned ones stay.  A worker
    that takes tasks gives away only what is beyond its slots, what it would run
    last first; one that takes none, or is gone, gives away all, the best first.
    They go to the least loaded worker that suits and has a free slot, and where
    there is none, from a worker that takes no tasks, to anybody.
    """
    left = {seat.worker.id: seat for seat in seats}
    taking = {worker_id for worker_id, seat in left.items() if takes_tasks(seat.worker)}
    kept: list[tuple[Task, Assignment]] = []
    forsaken: list[tuple[Task, Assignment]] = []
    for task in sorted(movable, key=lambda task: (-task.priority, task.sequence, task.id)):
        meant = task.assigned
        if meant is not None and not meant.pinned and task.state is State.QUEUED:
            (kept if meant.worker in taking else forsaken).append((task, meant))
    moves: list[Move] = []
    for task, meant in forsaken + kept[::-1]:
        own = left.get(meant.worker)
        stays = meant.worker in taking
        if own is not None and stays and own.load <= own.capacity:
            continue
        freed = steps.unassign(task)
        target = choose("least_loaded", freed, (seat for seat in left.values() if seat is not own), now=now)
        if target is None and stays:
            continue
        moves.append(Move(task.id, meant.worker, target.id if target is not None else None))
        if own is not None:
            left[meant.worker] = own._replace(assigned=max(0, own.assigned - 1))
        if target is not None:
            left[target.id] = left[target.id]._replace(assigned=left[target.id].assigned + 1)
    return moves, list(left.values())
