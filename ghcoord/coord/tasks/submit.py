"""Tasks put into the queue: one or many, each at most once, beside others or not."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from ghcoord.coord.context import TASK_TABLE, Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import counts, records, releasing, uniqueness
from ghcoord.coord.sessions import records as sessions
from ghcoord.coord.tasks.change import check_worker
from ghcoord.coord.tasks.submission import OPEN, PREFER_FOR, Submission, build, plain
from ghcoord.errors import NotFound, TooLarge, UsageError
from ghcoord.ids import check_name
from ghcoord.model.requirements import Requirements
from ghcoord.model.session import Session
from ghcoord.model.task import IfFailed, State, Task
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx
from ghcoord.tracing import trace_id_of

CHUNK = 500
"""Tasks that one transaction submits."""

CHUNK_BYTES = 16_000_000
"""Bytes of arguments and metadata that one transaction submits: commits of any store take more."""


class Offered(NamedTuple):
    """What became of a submission: the task, and whether it was made for it or was there before."""

    task: Task
    created: bool


class Submitting:
    """The part of a hub's tasks that puts them into the queue."""

    _context: Context

    def submit(
        self,
        tool: str,
        args: Mapping[str, Any] | None = None,
        *,
        type: str | None = None,
        priority: int = 0,
        retries: int = 0,
        backoff: float = 2.0,
        backoff_cap: float = 300.0,
        timeout: float | None = None,
        estimated_duration: float | None = None,
        requirements: Requirements | Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        not_before: datetime | float | None = None,
        after: Sequence[str] = (),
        if_failed: str = "cancel",
        key: str | None = None,
        concurrency: int | None = None,
        rate: tuple[int, float] | None = None,
        unique: bool = False,
        unique_key: str | None = None,
        unique_for: float | None = None,
        unique_states: Collection[str] | None = None,
        worker: str | None = None,
        prefer: str | None = None,
        prefer_for: float = PREFER_FOR,
        sandbox: str | None = None,
        session: str | None = None,
        trace: str = "",
        id: str | None = None,
    ) -> Task:
        """Queue one task; see :class:`Submission` for the arguments.

        A unique one that is there already is returned as it is.  Raises
        ``UsageError``, ``TooLarge``, ``SessionLost``, and ``NotFound`` for a task
        to wait for, a worker or a session that does not exist.
        """
        one = Submission(
            tool,
            args or {},
            priority,
            retries,
            backoff,
            backoff_cap,
            timeout,
            metadata or {},
            id,
            type,
            estimated_duration,
            requirements,
            not_before,
            after,
            if_failed,
            key,
            concurrency,
            rate,
            unique,
            unique_key,
            unique_for,
            unique_states,
            worker,
            prefer,
            prefer_for,
            sandbox,
            session,
            trace,
        )
        return self.offer(one).task

    def offer(self, one: Submission) -> Offered:
        """Queue one task, and say whether it was made or was there already. Raises as :meth:`submit` does."""
        return self.offer_many([one])[0]

    def submit_many(
        self,
        submissions: Sequence[Submission],
        *,
        batch: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> builtins.list[Task]:
        """Queue many tasks, 500 in a commit, in their order.

        With a ``batch`` id the tasks' ids follow from it, so that an
        interrupted call can be repeated and queues only what is missing.  All
        are checked before the first is queued.  ``on_progress`` gets the number
        queued so far.
        """
        return [one.task for one in self.offer_many(submissions, batch=batch, on_progress=on_progress)]

    def offer_many(
        self,
        submissions: Sequence[Submission],
        *,
        batch: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> builtins.list[Offered]:
        """As :meth:`submit_many`, saying of each whether it was made or was there already."""
        context = self._context
        if batch is not None:
            check_name(batch, "batch id")
        chunks: builtins.list[builtins.list[Item]] = []
        room = 0
        for number, one in enumerate(submissions):
            size = one.check()
            if size > room or len(chunks[-1]) >= CHUNK:
                chunks.append([])
                room = CHUNK_BYTES
            room -= size
            chunks[-1].append(Item(_id_of(one, batch, number), one))
        _check_ids([item for chunk in chunks for item in chunk], lambda: context.snapshot(FLEET))
        quota = context.config().quota_open_tasks
        done: builtins.list[Offered] = []
        aliases: dict[str, str] = {}
        for chunk in chunks:
            desk = Desk(context.actor, batch, quota, aliases)
            made = context.transact((FLEET,), partial(desk.take, chunk))
            done += made
            aliases.update({i.task_id: o.task.id for i, o in zip(chunk, made, strict=True) if i.task_id is not None})
            if on_progress is not None:
                on_progress(len(done))
        return done


class Item(NamedTuple):
    """A submission with the id that it must have, if it must."""

    task_id: str | None
    one: Submission


def _id_of(one: Submission, batch: str | None, number: int) -> str | None:
    """The id that a submission must have: its own, or the one that follows from the batch and its place there."""
    if one.id is not None or batch is None:
        return one.id
    return f"b{hashlib.sha256(batch.encode()).hexdigest()[:12]}-{number}"


def _check_ids(items: Sequence[Item], look: Callable[[], Snapshot]) -> None:
    """Two tasks have no id in common, and every task waits for one that is there or comes before it."""
    known: set[str] = set()
    snapshot: Snapshot | None = None
    for task_id, one in items:
        for awaited in one.after:
            if awaited not in known:
                snapshot = snapshot or look()
                if TASK_TABLE.find(snapshot, awaited) is None:
                    raise _no_such(awaited)
        if task_id in known:
            raise UsageError(f"two tasks of the batch have the same id: {task_id!r}")
        if task_id is not None:
            known.add(task_id)


def _no_such(awaited: str) -> NotFound:
    return NotFound(f"there is no task {awaited!r} to wait for: submit it first")


class Desk:
    """Takes the submissions of one transaction. ``aliases`` are the tasks that stand for earlier ids of the batch."""

    def __init__(self, actor: str, batch: str | None, quota: int | None, aliases: Mapping[str, str]) -> None:
        self._actor = actor
        self._batch = batch
        self._quota = quota
        self._earlier = aliases

    def take(self, items: Sequence[Item], tx: Tx) -> builtins.list[Offered]:
        """Queue what is missing; a function of the transaction alone, which may run again."""
        self._tx = tx
        self._aliases = dict(self._earlier)
        self._made: dict[str, Task] = {}
        self._unique: dict[str, builtins.list[Task]] = {}
        self._sessions: dict[str, Session] = {}
        self._first = self._sequence = counts.read(tx).sequence
        offered = [self._offer(item) for item in items]
        if not self._made:
            return offered
        self._check()
        records.next_sequences(tx, self._sequence - self._first)
        put = {task.id: task for task in records.add(tx, self._made.values())}
        self._tell(builtins.list(put.values()))
        return [Offered(put.get(one.task.id, one.task), one.created) for one in offered]

    def _offer(self, item: Item) -> Offered:
        task_id, one = item
        present = None if task_id is None else TASK_TABLE.get(self._tx, FLEET, task_id)
        if present is not None:
            return Offered(_same(present, one, self._batch if one.id is None else None), False)
        terms = one.unique_terms()
        if terms is not None:
            other = uniqueness.find(self._tx, terms, self._unique.get(terms.digest, ()))
            if other is not None:
                self._aliases.update({} if task_id is None else {task_id: other.id})
                return Offered(other, False)
        task = self._build(one, task_id)
        self._made[task.id] = task
        if task.unique is not None:
            self._unique.setdefault(task.unique.digest, []).append(task)
        return Offered(task, True)

    def _next_id(self) -> str:
        """The task's place in the queue as its id; places whose id somebody chose are left out."""
        while self._taken(task_id := f"t{self._sequence}"):
            self._sequence += 1
        return task_id

    def _build(self, one: Submission, wanted: str | None) -> Task:
        tx = self._tx
        task_id = self._next_id() if wanted is None else wanted
        if one.worker is not None:
            check_worker(tx, one.worker)
        after = [self._awaited(self._aliases.get(awaited, awaited)) for awaited in one.after]
        if task_id in {task.id for task in after}:
            raise UsageError(f"task {task_id!r} cannot wait for itself")
        waits = [task for task in after if _holds_up(task, one.if_failed)]
        made = build(
            one,
            task_id,
            self._sequence,
            now=tx.now,
            actor=self._actor,
            after=[task.id for task in after],
            waiting_for=[task.id for task in waits],
            batch=self._batch,
            session=None if one.session is None else self._session(one.session),
        )
        self._sequence += 1
        failed = next((task for task in waits if task.ended), None)
        return made if failed is None or one.if_failed == IfFailed.WAIT else _told(made, failed, tx.now)

    def _session(self, session_id: str) -> Session:
        """The session of a call. Raises ``NotFound``, and ``SessionLost`` when its files are gone."""
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = sessions.usable(self._tx, session_id)
        return session

    def _taken(self, task_id: str) -> bool:
        return task_id in self._made or self._tx.read(FLEET, TASK_TABLE.path(task_id)) is not None

    def _awaited(self, task_id: str) -> Task:
        task = self._made.get(task_id) or TASK_TABLE.get(self._tx, FLEET, task_id)
        if task is None:
            raise _no_such(task_id)
        return task

    def _check(self) -> None:
        """Raise when the hub would have more, or more different tasks than it may."""
        counts.check_classes(self._tx, [task for task in self._made.values() if not task.ended])
        if self._quota is None:
            return
        present = counts.read(self._tx).states
        total = sum(present.get(state, 0) for state in OPEN) + sum(not task.ended for task in self._made.values())
        if total > self._quota:
            raise TooLarge(
                f"the hub would have {total} open tasks, more than the {self._quota} of its setting quota.open_tasks: "
                "wait until some have ended, or raise it with 'ghcoord config set quota.open_tasks N'",
                code="QUOTA_EXCEEDED",
            )

    def _tell(self, put: Sequence[Task]) -> None:
        tx = self._tx
        if len(put) == 1:
            only = put[0]
            kind = None if only.type in ("", only.tool) else only.type
            tx.event(
                FLEET,
                "task submitted",
                task=only.id,
                tool=only.tool,
                type=kind,
                key=records.key_of(only),
                batch=self._batch,
                trace=trace_id_of(only.trace) or None,
                by=self._actor,
            )
        else:
            tx.event(FLEET, f"{len(put)} tasks submitted", first=put[0].id, batch=self._batch, by=self._actor)
        for task in put:
            if task.state is State.CANCELLED:
                tx.event(FLEET, "task cancelled", task=task.id, reason=task.cancel_reason)


def _holds_up(task: Task, if_failed: str) -> bool:
    """Whether the present state of ``task`` keeps another waiting, or decides over it."""
    return not task.ended or (task.state is not State.SUCCEEDED and if_failed != IfFailed.RUN)


def _told(task: Task, failed: Task, now: float) -> Task:
    return releasing.told(task, failed.id, failed, now)


def _same(task: Task, one: Submission, batch: str | None) -> Task:
    """The task that has the id already, if it is what was submitted."""
    other = task.tool != one.tool or task.args != plain(one.args) or task.session != one.session
    if other or (batch is not None and task.batch != batch):
        raise UsageError(f"the task id {task.id!r} is taken by another task: choose another id")
    return task
