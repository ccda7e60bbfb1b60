"""Many tasks at once, by query: cancelled, retried, purged, and purged by age."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from ghcoord.coord.context import Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import counts, dependencies, listing, records, releasing, uniqueness
from ghcoord.coord.sessions import records as sessions
from ghcoord.coord.tasks.change import CASCADE, MAX_REASON
from ghcoord.coord.tasks.query import TaskQuery, find, states_of
from ghcoord.coord.tasks.submission import OPEN
from ghcoord.errors import IllegalTransition, UsageError
from ghcoord.model import steps as model
from ghcoord.model.task import ENDED, State, Task
from ghcoord.store.tx import Tx

PAGE = 500
"""Tasks that one commit changes at most."""

PAGE_BYTES = 16_000_000
"""Bytes of task records that one commit changes; a single larger one is changed alone."""

SHOWN = 20
"""Events of single tasks that a commit tells: of more it tells the number."""

FIRST = 10
"""Tasks that a dry run shows."""

RETAIN_MOST = 5_000
"""Tasks that one call of ``retain`` looks at, of each state: the loop of a worker waits for it."""


@dataclass(slots=True)
class BulkResult:
    """What became of the tasks of a query: how many were changed, and why which were not.

    Of a dry run: how many it would try to change, and the ``first`` ten of them.
    """

    changed: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    first: list[Task] = field(default_factory=list)


@dataclass(slots=True)
class _Page:
    """One commit's part. ``taken`` counts the ids that it dealt with."""

    taken: int = 0
    changed: int = 0
    refused: dict[str, str] = field(default_factory=dict)


Progress = Callable[[int], None]
Apply = Callable[[Tx, Sequence[Task], _Page], None]


class Bulk:
    """The part of a hub's tasks that changes many of them."""

    _context: Context

    def cancel_many(
        self, query: TaskQuery, reason: str = "", *, dry_run: bool = False, on_progress: Progress | None = None
    ) -> BulkResult:
        """Cancel every task of ``query`` that has not ended, 500 in a commit; running ones are asked to end.

        ``on_progress`` gets the number of those done.  Raises ``UsageError``.
        """
        actor = self._context.actor

        def apply(tx: Tx, tasks: Sequence[Task], page: _Page) -> None:
            asked = [task for task in tasks if not (task.state is State.LEASED and task.cancel_requested)]
            pairs = [(task, model.cancel(task, reason[:MAX_REASON], now=tx.now)) for task in asked]
            put = records.put(tx, pairs)
            page.changed += len(put)
            kinds = ["task cancelled" if task.ended else "task cancel requested" for task in put]
            _tell(tx, list(zip(put, kinds, strict=True)), "cancelled", actor, reason[:200] or None)
            releasing.work(tx, CASCADE)

        return self._each(_narrowed(query, OPEN, "be cancelled"), apply, dry_run, on_progress)

    def retry_many(self, query: TaskQuery, *, dry_run: bool = False, on_progress: Progress | None = None) -> BulkResult:
        """Queue every task of ``query`` again, 500 in a commit: dead ones, unless the query names other states.

        Refused are those whose unique key another task has.  Raises ``UsageError``.
        """
        actor = self._context.actor
        wanted = query if query.states else replace(query, states=(State.DEAD,))

        def apply(tx: Tx, tasks: Sequence[Task], page: _Page) -> None:
            pairs: list[tuple[Task, Task]] = []
            for task in tasks:
                try:
                    queued = model.retry(task, sequence=task.sequence)
                    uniqueness.check_retry(tx, task, [new for _, new in pairs])
                    sessions.check_retry(tx, task)
                    pairs.append((task, queued))
                except IllegalTransition as refusal:
                    page.refused[task.id] = refusal.message
            counts.check_classes(tx, [new for _, new in pairs])
            places = records.next_sequences(tx, len(pairs)) if pairs else ()
            changes = [
                (old, new.model_copy(update={"sequence": at})) for (old, new), at in zip(pairs, places, strict=True)
            ]
            put = records.put(tx, changes)
            page.changed += len(put)
            _tell(tx, [(task, "task retried") for task in put], "retried", actor)

        allowed = (State.SCHEDULED, State.FAILED, State.DEAD, State.CANCELLED)
        return self._each(_narrowed(wanted, allowed, "be retried"), apply, dry_run, on_progress)

    def purge(self, query: TaskQuery, *, dry_run: bool = False, on_progress: Progress | None = None) -> BulkResult:
        """Remove every task of ``query`` that has ended, 500 in a commit; the hub's history keeps them for a while.

        Refused are those that others wait for.  Raises ``UsageError``.
        """
        actor = self._context.actor

        def apply(tx: Tx, tasks: Sequence[Task], page: _Page) -> None:
            _remove(tx, tasks, page, actor)

        return self._each(_narrowed(query, tuple(ENDED), "be purged"), apply, dry_run, on_progress)

    def retain(self) -> int:
        """Remove tasks that ended longer ago than the hub's settings keep them, oldest first; returns how many.

        Workers do so by themselves; what is too much for one call is left to the next.
        """
        config = self._context.config()
        kept = {
            State.SUCCEEDED: config.retention_succeeded,
            State.CANCELLED: config.retention_cancelled,
            State.DEAD: config.retention_dead,
        }
        snapshot, now = self._context.snapshot(FLEET), self._context.now()
        removed = 0
        for state, age in kept.items():
            over = TaskQuery(states=(state,), ended_before=age)
            old = listing.ended(snapshot, state, before=now - age, oldest_first=True)
            ids = [task_id for _, task_id in islice(old, RETAIN_MOST)]
            removed += self._run(ids, over, lambda tx, tasks, page: _remove(tx, tasks, page, None), None).changed
        return removed

    # -- page by page

    def _each(self, query: TaskQuery, apply: Apply, dry_run: bool, on_progress: Progress | None) -> BulkResult:
        query.check()
        found = find(self._context.snapshot(FLEET), query, self._context.now())
        if dry_run:
            first = list(islice(found, FIRST))
            return BulkResult(len(first) + sum(1 for _ in found), first=first)
        return self._run([task.id for task in found], query, apply, on_progress)

    def _run(self, ids: Sequence[str], query: TaskQuery, apply: Apply, on_progress: Progress | None) -> BulkResult:
        total = BulkResult()
        at = 0
        while at < len(ids):
            rest = ids[at : at + PAGE]

            def run(tx: Tx, rest: Sequence[str] = rest) -> _Page:
                page = _Page()
                apply(tx, list(_take(tx, rest, query, page)), page)
                return page

            page = self._context.transact((FLEET,), run)
            at += page.taken
            total.changed += page.changed
            total.refused.update(page.refused)
            if on_progress is not None:
                on_progress(at)
        return total


def _narrowed(query: TaskQuery, allowed: Sequence[State], what: str) -> TaskQuery:
    """``query`` for tasks in the ``allowed`` states only; raises ``UsageError`` when it names others."""
    named = states_of(query.states) if query.states else allowed
    wrong = next((state for state in named if state not in allowed), None)
    if wrong is not None:
        raise UsageError(f"{wrong} tasks cannot {what}: only {', '.join(s for s in State if s in allowed)} ones")
    return replace(query, states=tuple(named))


def _take(tx: Tx, ids: Sequence[str], query: TaskQuery, page: _Page) -> Iterator[Task]:
    """The tasks that are still meant, as many as fit into one commit."""
    room = PAGE_BYTES
    for task_id in ids:
        task = records.get(tx, task_id)
        if task is not None and query.matches(task, tx.now):
            room -= records.size_of(tx, task)
            if room < 0 and page.taken:
                return
            yield task
        page.taken += 1


def _remove(tx: Tx, tasks: Sequence[Task], page: _Page, actor: str | None) -> None:
    free = []
    for task in tasks:
        if dependencies.is_awaited(tx, task.id):
            page.refused[task.id] = f"task {task.id} cannot be purged: others wait for it"
        else:
            free.append(task)
    if free:
        records.remove(tx, *free)
        page.changed += len(free)
        tx.event(FLEET, f"{len(free)} tasks purged", first=free[0].id, by=actor)


def _tell(tx: Tx, told: Sequence[tuple[Task, str]], verb: str, actor: str, reason: str | None = None) -> None:
    if len(told) > SHOWN:
        tx.event(FLEET, f"{len(told)} tasks {verb}", first=told[0][0].id, by=actor, reason=reason)
        return
    for task, kind in told:
        tx.event(FLEET, kind, task=task.id, by=actor, reason=reason)
