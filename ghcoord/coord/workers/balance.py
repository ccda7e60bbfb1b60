"""Placing tasks on workers: which worker, which task, how the load lies, and what evens it out.

Workers fetch tasks by themselves, the best first.  Placing a task on one is for
those who want a say in where it runs: it then waits for that worker alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ghcoord.coord import layout
from ghcoord.coord.care.rehearse import rehearse
from ghcoord.coord.care.settings import HubSettings
from ghcoord.coord.context import WORKER_TABLE, Context
from ghcoord.coord.layout import ASSIGNED, FLEET
from ghcoord.coord.queue import records, upkeep
from ghcoord.coord.queue.choosing import choose
from ghcoord.coord.queue.leasing import HELD_BYTES
from ghcoord.coord.sessions.records import with_calls
from ghcoord.coord.tasks.change import need as need_task
from ghcoord.coord.workers.recovery import need_worker
from ghcoord.errors import NoCapacity, UsageError
from ghcoord.model import placement, steps
from ghcoord.model.codec import to_json
from ghcoord.model.lease import Judge
from ghcoord.model.placement import LoadDistribution, Move, Seat
from ghcoord.model.task import State, Task
from ghcoord.model.tier import Tier
from ghcoord.model.worker import Worker, worker_key
from ghcoord.store.tx import Tx

LOOK = 100
"""Queued tasks among which a worker's preference for types it has run counts."""

SCAN = 1000
"""Assigned tasks that one rebalancing reads at most; a further one goes on."""


class RebalanceResult(NamedTuple):
    """What rebalancing did: ``moves`` in their order; the percentages are of all slots of workers that take tasks."""

    tasks_moved: int
    improved_utilization: bool
    before_utilization: float
    after_utilization: float
    moves: tuple[Move, ...]


class Balance:
    """Placement on the workers of a hub; :mod:`ghcoord.model.placement` has the strategies."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # -- the strategy

    def strategy(self) -> str:
        """The strategy that counts for all users of the hub."""
        return str(HubSettings(self._context).get("strategy"))

    def set_strategy(self, name: str) -> None:
        """Set the strategy for all users of the hub. Raises ``UsageError`` for an unknown one."""
        HubSettings(self._context).set("strategy", name)

    # -- looking

    def get_next_task(self, worker_id: str, tasks: Sequence[Task] | None = None) -> Task | None:
        """The task that the worker would get first, of ``tasks`` or of all that are queued. A look, not a lease.

        The queue's order counts.  With the strategies ``affinity`` and
        ``adaptive`` the worker prefers, among tasks of equal priority, types
        that it ran lately.  ``None`` when nothing suits, or when the worker has
        no slot left, drains or is unhealthy.  Raises ``NotFound``.
        """
        strategy = self._context.config().strategy

        def run(tx: Tx) -> Task | None:
            seat = Seat(need_worker(tx, worker_id))
            offered = tasks
            if offered is None:
                count = LOOK if strategy in placement.KEEPING_TYPES else 1
                upkeep.run(tx)
                sessions = with_calls(tx, seat.worker)
                alone = seat.worker.calls_only
                offered = choose(
                    tx, worker_id, seat.worker.offer, count, HELD_BYTES, sessions=sessions, calls_only=alone
                )
            return placement.next_task(strategy, seat, offered, now=tx.now)

        return rehearse(self._context, (FLEET,), run)

    def select_worker(self, task: Task | str, workers: Sequence[Worker] | None = None) -> Worker | None:
        """The worker that the strategy would give ``task`` (or the task of that id) to: of ``workers``, or of all.

        ``None`` when none suits and has a free slot.  A look: with ``round_robin``
        it stays the same until :meth:`assign` has placed a task.  Raises ``NotFound``.
        """
        strategy, judge = self._context.config().strategy, self._context.judge()

        def run(tx: Tx) -> Worker | None:
            wanted = need_task(tx, task) if isinstance(task, str) else task
            offered = _present(tx, judge) if workers is None else workers
            return placement.choose(strategy, _free(wanted), _seats(tx, offered, wanted), now=tx.now, last=_last(tx))

        return rehearse(self._context, (FLEET,), run)

    def distribution(self) -> LoadDistribution:
        """How the load lies on the workers that take tasks."""
        judge = self._context.judge()
        return rehearse(self._context, (FLEET,), lambda tx: placement.distribution(_seats(tx, _present(tx, judge))))

    # -- changing

    def assign(self, task_id: str) -> Task:
        """Place a task that has not started on the worker that the strategy chooses.

        It waits for that worker from then on, until the worker is gone or
        :meth:`rebalance` moves it.  Raises ``NotFound``, ``NoCapacity`` when no
        worker suits and has a free slot, ``IllegalTransition`` for a task that
        has started, ``UsageError`` for one that its submitter pinned.
        """
        context = self._context
        strategy, judge = context.config().strategy, context.judge()

        def run(tx: Tx) -> Task:
            task = need_task(tx, task_id)
            steps.check_placeable(task)
            if task.assigned is not None and task.assigned.pinned:
                raise UsageError(
                    f"task {task_id} is pinned to {task.assigned.worker!r}: 'ghcoord task assign' moves it nevertheless"
                )
            last = _last(tx)
            seats = _seats(tx, _present(tx, judge), task)
            worker = placement.choose(strategy, _free(task), seats, now=tx.now, last=last)
            if worker is None:
                steps.assign(task, "-", now=tx.now)  # says so if the task has started
                raise NoCapacity(f"no active worker with a free slot suits {describe_need(task)}")
            (placed,) = records.put(tx, [(task, steps.assign(task, worker.id, now=tx.now))])
            if strategy == "round_robin" and worker.id != last:
                tx.write(FLEET, layout.BALANCE_RECORD, to_json({"format": 1, "last": worker.id}).encode())
            tx.event(FLEET, "task assigned", task=task_id, worker=worker.id, strategy=strategy, by=context.actor)
            return placed

        return context.transact((FLEET,), run)

    def rebalance(self, dry_run: bool = False) -> RebalanceResult:
        """Move queued tasks from workers with more than their slots, or that take none, to those with room.

        Only what was assigned and has not started is moved, never what its
        submitter pinned.  One transaction, over at most 1,000 assigned tasks.
        With ``dry_run`` says what it would do.
        """
        judge, actor = self._context.judge(), self._context.actor

        def run(tx: Tx) -> RebalanceResult:
            seats = list(_seats(tx, _present(tx, judge)))
            before = placement.distribution(seats)
            tasks = {task.id: task for task in _movable(tx, seats)}
            moves, left = placement.plan_moves(seats, tasks.values(), now=tx.now)
            if moves:
                records.put(tx, [(tasks[move.task_id], _moved(tasks[move.task_id], move, tx.now)) for move in moves])
            for move in moves:
                kind = "task assigned" if move.to_worker is not None else "task unassigned"
                tx.event(FLEET, kind, task=move.task_id, worker=move.to_worker, before=move.from_worker, by=actor)
            after = placement.distribution(left)
            return RebalanceResult(
                len(moves),
                after.utilization_percent > before.utilization_percent,
                before.utilization_percent,
                after.utilization_percent,
                tuple(moves),
            )

        if dry_run:
            return rehearse(self._context, (FLEET,), run)
        return self._context.transact((FLEET,), run)


def describe_need(task: Task) -> str:
    """The task and what it needs of a worker, for a message."""
    need = task.need
    parts = [f"tool {need.tool}"]
    if need.type != need.tool:
        parts.append(f"type {need.type}")
    if need.cpu_cores:
        parts.append(f"{need.cpu_cores} cores")
    if need.memory_mb:
        parts.append(f"{need.memory_mb} MiB")
    if need.tier is not Tier.NONE:
        parts.append(f"sandbox {need.tier}")
    return f"task {task.id} ({', '.join([*parts, *need.capabilities])})"


def _moved(task: Task, move: Move, now: float) -> Task:
    return steps.unassign(task) if move.to_worker is None else steps.assign(task, move.to_worker, now=now)


def _free(task: Task) -> Task:
    """The task as it is placed anew: where it was placed before does not bind, unless it is pinned."""
    return task if task.assigned is None or task.assigned.pinned else steps.unassign(task)


def _present(tx: Tx, judge: Judge) -> Iterator[Worker]:
    """The workers that are there and whose lease runs."""
    for worker in WORKER_TABLE.all(tx, FLEET):
        if worker.alive and not judge(worker_key(worker.id), worker.lease, tx.now):
            yield worker


def _seats(tx: Tx, workers: Iterable[Worker], placing: Task | None = None) -> Iterator[Seat]:
    """The workers with the tasks that are meant for them, counted as far as it matters for the task ``placing``."""
    for worker in workers:
        ids: set[str] = set()
        for task_id in _meant(tx, layout.assigned_top(worker.id)):
            if placing is not None and len(ids) >= worker.capacity.max_tasks:
                break
            if placing is None or task_id != placing.id:
                ids.add(task_id)
        yield Seat(worker, len(ids))


def _meant(tx: Tx, top: str) -> Iterator[str]:
    """Ids of the queued tasks below ``index/assigned/WORKER``; those behind a gate may come twice."""
    return (path.rpartition("/")[2].partition("-")[2] for path in tx.walk(FLEET, top))


def _movable(tx: Tx, seats: Sequence[Seat]) -> Iterator[Task]:
    """Queued tasks meant for workers that have too many, or that take none or are gone."""
    known = {layout.assigned_top(seat.worker.id): seat for seat in seats}
    seen: set[str] = set()
    room = HELD_BYTES
    for name in tx.names(FLEET, ASSIGNED):
        top = f"{ASSIGNED}/{name}"
        seat = known.get(top)
        if seat is not None and placement.takes_tasks(seat.worker) and seat.load <= seat.capacity:
            continue
        for task_id in _meant(tx, top):
            task = None if task_id in seen else records.get(tx, task_id)
            if task is None or task.state is not State.QUEUED or task.assigned is None:
                continue
            room -= records.size_of(tx, task)
            if len(seen) >= SCAN or room < 0:
                return
            seen.add(task_id)
            yield task


def _last(tx: Tx) -> str:
    """The worker that was chosen last, as far as anybody kept it."""
    try:
        return str(json.loads(tx.read(FLEET, layout.BALANCE_RECORD) or b"{}")["last"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
