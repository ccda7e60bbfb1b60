"""Tasks as their submitters see them: submit, look, wait, cancel, retry."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from ghcoord.coord import layout, queue
from ghcoord.coord.context import TASK_TABLE, Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.logs import Follower, whole_output
from ghcoord.errors import Corrupt, InvalidName, NewerSchema, NotFound, TaskFailed, TooLarge, UsageError
from ghcoord.ids import check_id, check_name, decode_component, new_task_id
from ghcoord.model import steps as model
from ghcoord.model.codec import check_value, stamp, to_json
from ghcoord.model.task import ENDED, Backoff, State, Task, TaskResult
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx
from ghcoord.units import MAX_DURATION

CHUNK = 500
"""Tasks that one transaction submits."""

CHUNK_BYTES = 16_000_000
"""Bytes of arguments and metadata that one transaction submits: commits of any store take more."""

MAX_PAYLOAD = 880_000
"""Bytes of arguments and metadata as a record holds them: what happens to the task must fit beside them."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What to run and how.

    ``priority`` 0 to 9, higher first.  ``retries`` is how many more times a
    failure is tried, after an exponential back-off from ``backoff`` to
    ``backoff_cap`` seconds.  ``timeout`` in seconds ends an attempt.  ``id`` is
    optional; submitting the same id and content again is harmless.
    """

    tool: str
    args: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    retries: int = 0
    backoff: float = 2.0
    backoff_cap: float = 300.0
    timeout: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None

    def check(self) -> int:
        """The bytes of args and metadata. Raises ``UsageError`` naming what is wrong first, or ``TooLarge``."""
        for name, what in ((self.tool, "tool name"), (self.id, "task id")):
            if name is not None and not isinstance(name, str):
                raise UsageError(f"the {what} {name!r} is not a text")
        check_id(self.tool, "tool name")
        if self.id is not None:
            check_id(self.id, "task id")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int) or not 0 <= self.priority <= 9:
            raise UsageError(f"priority {self.priority!r} is out of range: give 0 to 9")
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or not 0 <= self.retries <= 999:
            raise UsageError(f"retries {self.retries!r} is out of range: give 0 to 999")
        for seconds, what in ((self.timeout, "timeout"), (self.backoff, "back-off"), (self.backoff_cap, "back-off")):
            if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
                raise UsageError(f"the {what} {seconds!r} is not a number of seconds")
        if self.timeout is not None and not 0 < self.timeout <= MAX_DURATION:
            raise UsageError(f"a timeout of {self.timeout!r} s is out of range: give more than 0")
        if not 0 <= self.backoff <= 86400 or not 0 <= self.backoff_cap <= 7 * 86400:
            raise UsageError("back-off is out of range: give 0 to 86400 s, its cap up to 7 days")
        for what, value in (("args", self.args), ("metadata", self.metadata)):
            if not isinstance(value, Mapping):
                raise UsageError(f"{what} must be a JSON object")
            check_value(dict(value), what)
        size = len(to_json([dict(self.args), dict(self.metadata)]).encode())
        if size > MAX_PAYLOAD:
            raise TooLarge(f"args and metadata have {size} bytes: at most {MAX_PAYLOAD} are accepted")
        return size


class Tasks:
    """The task queue of a hub."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def submit(
        self,
        tool: str,
        args: Mapping[str, Any] | None = None,
        *,
        priority: int = 0,
        retries: int = 0,
        backoff: float = 2.0,
        backoff_cap: float = 300.0,
        timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
    ) -> Task:
        """Queue one task; see :class:`Submission` for the arguments. Raises ``UsageError``, ``TooLarge``."""
        one = Submission(tool, args or {}, priority, retries, backoff, backoff_cap, timeout, metadata or {}, id)
        return self.submit_many([one])[0]

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
        context = self._context
        if batch is not None:
            check_name(batch, "batch id")
        chunks: builtins.list[builtins.list[tuple[str, Submission]]] = []
        room = 0
        for number, one in enumerate(submissions):
            size = one.check()
            if size > room or len(chunks[-1]) >= CHUNK:
                chunks.append([])
                room = CHUNK_BYTES
            room -= size
            chunks[-1].append((one.id or self._new_id(batch, number), one))
        if len({task_id for chunk in chunks for task_id, _ in chunk}) < len(submissions):
            raise UsageError("two tasks of the batch have the same id")
        done: builtins.list[Task] = []
        for chunk in chunks:
            done += context.transact((FLEET,), partial(_submit, items=chunk, actor=context.actor))
            if on_progress is not None:
                on_progress(len(done))
        return done

    def _new_id(self, batch: str | None, number: int) -> str:
        if batch is None:
            return new_task_id(self._context.runtime.randbits)
        return "t" + hashlib.sha256(f"{batch}\0{number}".encode()).hexdigest()[:16]

    # -- looking

    def get(self, task_id: str) -> Task | None:
        """The task's record."""
        return TASK_TABLE.find(self._context.snapshot(FLEET), task_id)

    def list(
        self, state: str | Collection[str] | None = None, limit: int | None = None, tool: str | None = None
    ) -> builtins.list[Task]:
        """Tasks of one state or several: queued ones in the order in which they will run, others newest first."""
        wanted = [state] if isinstance(state, str) else list(State) if state is None else [*state]
        try:
            states = [State(one) for one in wanted]
        except ValueError:
            raise UsageError(f"unknown state: one of {', '.join(State)}") from None
        if limit is not None and limit < 0:
            raise UsageError("the limit must not be negative")
        snapshot = self._context.snapshot(FLEET)
        found = (task for one in states for task in self._of_state(snapshot, one) if tool is None or task.tool == tool)
        if len(states) == 1 and states[0] not in (State.LEASED, State.FAILED):
            return list(islice(found, limit))
        return sorted(found, key=lambda task: task.sequence, reverse=True)[:limit]

    def _of_state(self, snapshot: Snapshot, state: State) -> Iterator[Task]:
        for task_id in _indexed(snapshot, state):
            try:
                task = TASK_TABLE.find(snapshot, task_id)
            except (Corrupt, NewerSchema, InvalidName):
                continue
            if task is not None and task.state is state:
                yield task

    def counts(self) -> dict[str, int]:
        """How many tasks are in each state."""
        raw = self._context.snapshot(FLEET).read(layout.QUEUE_RECORD)
        counts = queue.read_counts(raw)["counts"]
        return {str(state): counts.get(state, 0) for state in State}

    def queued_by_tool(self) -> dict[str, int]:
        """How many tasks of each tool are queued, from the index: no record is read."""
        found: dict[str, int] = {}
        for path, _ in self._context.snapshot(FLEET).walk(layout.READY):
            name = path.removeprefix(layout.READY + "/").partition("/")[0]
            found[name] = found.get(name, 0) + 1
        return {decode_component(name) or name: count for name, count in sorted(found.items())}

    def result(self, task_id: str) -> TaskResult | None:
        """The result of the last attempt that had one. Raises ``NotFound``."""
        return self._need(task_id).result

    def logs(self, task_id: str, follow: bool = False, timeout: float | None = None) -> Iterator[str]:
        """The task's output: what its result holds, or the tail that its worker last published.

        With ``follow`` goes on until the task has ended, marking what passed by
        between two publications.  Raises ``NotFound``, and ``WaitTimeout`` when
        nothing new came for ``timeout`` seconds.
        """
        task = self._need(task_id)
        if not follow:
            if text := whole_output(task):
                yield text
            return
        follower = Follower()
        while True:
            if text := follower.next(task):
                yield text
            if task.ended:
                return
            task = self._context.poll(partial(self._changed, task), timeout, f"task {task_id} said nothing new")

    def _changed(self, before: Task) -> Task | None:
        now = self._need(before.id)
        return now if now != before else None

    def _need(self, task_id: str) -> Task:
        task = self.get(task_id)
        if task is None:
            raise NotFound(f"there is no task {task_id!r}")
        return task

    # -- waiting

    def wait(self, task_id: str, timeout: float | None = 300.0) -> TaskResult:
        """The result once the task has ended: success or not.

        ``timeout`` in seconds, ``None`` for ever.  Raises ``NotFound``,
        ``WaitTimeout``, and ``TaskFailed`` for a task that was cancelled before
        it ran.
        """
        context = self._context
        seen: builtins.list[str | None] = [""]

        def look() -> Task | None:
            # Heads are cheap; records are read only when the fleet has moved.
            head = context.snapshot(FLEET)
            if head.head == seen[0]:
                return None
            seen[0] = head.head
            task = TASK_TABLE.find(head, task_id)
            if task is None:
                raise NotFound(f"there is no task {task_id!r}")
            return task if task.ended else None

        ended = context.poll(look, timeout, f"task {task_id} has not ended", min(context.poll_interval, 0.25))
        if ended.result is None:
            raise TaskFailed(f"task {task_id} was {ended.state}: {ended.cancel_reason or 'it never ran'}")
        return ended.result

    # -- changing

    def cancel(self, task_id: str, reason: str = "") -> Task:
        """Cancel a task: at once when it is not running, else its worker is asked to.

        Raises ``NotFound``, and ``IllegalTransition`` when it has ended.
        """

        def run(tx: Tx) -> Task:
            task = _get(tx, task_id)
            cancelled = model.cancel(task, reason[:500], now=tx.now)
            if cancelled != task:
                (cancelled,) = queue.put(tx, [(task, cancelled)])
                kind = "task cancelled" if cancelled.ended else "task cancel requested"
                tx.event(FLEET, kind, task=task_id, by=self._context.actor, reason=reason[:200] or None)
            return cancelled

        return self._context.transact((FLEET,), run)

    def retry(self, task_id: str) -> Task:
        """Queue a dead, cancelled or backing-off task again. Raises ``NotFound``, ``IllegalTransition``."""

        def run(tx: Tx) -> Task:
            task = _get(tx, task_id)
            queued = model.retry(task, sequence=task.sequence)
            queued = queued.model_copy(update={"sequence": queue.next_sequences(tx, 1)[0]})
            (put,) = queue.put(tx, [(task, queued)])
            tx.event(FLEET, "task retried", task=task_id, by=self._context.actor)
            return put

        return self._context.transact((FLEET,), run)


def _get(tx: Tx, task_id: str) -> Task:
    task = TASK_TABLE.get(tx, FLEET, task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id!r}")
    return task


def _submit(tx: Tx, items: Sequence[tuple[str, Submission]], actor: str) -> builtins.list[Task]:
    present = {task_id: TASK_TABLE.get(tx, FLEET, task_id) for task_id, _ in items}
    missing = [(task_id, one) for task_id, one in items if present[task_id] is None]
    made: dict[str, Task] = {}
    for sequence, (task_id, one) in (
        zip(queue.next_sequences(tx, len(missing)), missing, strict=True) if missing else ()
    ):
        made[task_id] = Task(
            id=task_id,
            tool=one.tool,
            args=_plain(one.args),
            priority=one.priority,
            sequence=sequence,
            created_at=stamp(tx.now),
            submitted_by=actor,
            timeout=one.timeout,
            max_failures=one.retries + 1,
            backoff=Backoff(base=one.backoff, cap=one.backoff_cap),
            metadata=_plain(one.metadata),
        )
    if made:
        queue.add(tx, made.values())
        if len(made) == 1:
            only = next(iter(made.values()))
            tx.event(FLEET, "task submitted", task=only.id, tool=only.tool, by=actor)
        else:
            tx.event(FLEET, f"{len(made)} tasks submitted", first=next(iter(made)), by=actor)
    return [made.get(task_id) or _same(present[task_id], one) for task_id, one in items]


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` as it is read back: tuples are lists."""
    return dict(json.loads(json.dumps(dict(value))))


def _same(task: Task | None, one: Submission) -> Task:
    assert task is not None
    if task.tool != one.tool or task.args != _plain(one.args):
        raise UsageError(f"the task id {task.id!r} is taken by another task: choose another id")
    return task


def _indexed(snapshot: Snapshot, state: State) -> Iterator[str]:
    """Ids of the tasks in ``state`` from the index."""

    def leaves(path: str, reverse: bool) -> Iterator[str]:
        return (full.rpartition("/")[2] for full, _ in snapshot.walk(path, reverse=reverse))

    if state is State.LEASED:
        yield from leaves(layout.LEASED, False)
    elif state is State.FAILED:
        yield from (name.partition("-")[2] for name in leaves(layout.BACKING_OFF, False))
    elif state in ENDED:
        yield from (name.partition("-")[2] for name in leaves(f"{layout.ENDED}/{state}", True))
    else:
        yield from _queued(snapshot)


def _queued(snapshot: Snapshot) -> Iterator[str]:
    found: builtins.list[tuple[str, str]] = []
    for path, _ in snapshot.walk(layout.READY):
        _, _, rest = path.removeprefix(layout.READY + "/").partition("/")
        found.append((rest, rest.rpartition("/")[2].partition("-")[2]))
    yield from (task_id for _, task_id in sorted(found))


def summarise(tasks: Iterable[Task]) -> dict[str, int]:
    """How many of ``tasks`` are in each state."""
    counts = {str(state): 0 for state in State}
    for task in tasks:
        counts[task.state] += 1
    return counts
