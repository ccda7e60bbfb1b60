"""The queue inside a transaction: records, index and counts change together, in one place.

Every function takes a :class:`Tx` over ``fleet`` and does no I/O of its own.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE
from ghcoord.coord.layout import FLEET
from ghcoord.errors import Corrupt, InvalidName, LeaseLost, NewerSchema, TooLarge
from ghcoord.ids import encode_component
from ghcoord.model import steps as model
from ghcoord.model.codec import MAX_RECORD, encode, to_json
from ghcoord.model.task import State, Task, TaskResult
from ghcoord.store.tx import Tx

_REPORTED = frozenset({"succeeded", "failed", "cancelled"})

HEADROOM = 50_000
"""Bytes that a record with a result leaves free: the histories of further attempts must fit as well."""

KEPT = 1000
"""Characters of its texts that are kept of a result which does not fit beside the task's arguments."""

MAX_SEQUENCE = 2**40
"""Places in the queue that the names of its index have room for."""

HELD_BYTES = 24 * 1024 * 1024
"""Bytes of task records that one worker holds at most; a commit takes 64 MiB on a local hub, 40 MB on GitHub."""

PROMOTE_PAGE = 200
"""Ended back-offs that one transaction puts back into the queue at most."""


def read_counts(raw: bytes | None) -> dict[str, Any]:
    """The queue record: the next sequence number and how many tasks are in each state."""
    try:
        value = json.loads(raw) if raw is not None else {}
        counts = {State(k): max(0, int(v)) for k, v in value.get("counts", {}).items()}
        sequence = int(value.get("sequence", 0))
        return {"sequence": sequence if 0 <= sequence < MAX_SEQUENCE else 0, "counts": counts}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {"sequence": 0, "counts": {}}  # a person broke it; rebuild() makes it anew


def _write_counts(tx: Tx, queue: dict[str, Any]) -> None:
    counts = {str(state): count for state, count in queue["counts"].items() if count}
    record = {"counts": counts, "format": 1, "sequence": queue["sequence"]}
    tx.write(FLEET, layout.QUEUE_RECORD, to_json(record).encode())


def next_sequences(tx: Tx, count: int) -> range:
    """``count`` new places at the end of the queue."""
    queue = read_counts(tx.read(FLEET, layout.QUEUE_RECORD))
    first = queue["sequence"]
    queue["sequence"] = first + count
    _write_counts(tx, queue)
    return range(first, first + count)


def put(tx: Tx, pairs: Iterable[tuple[Task, Task]]) -> list[Task]:
    """Replace each old task by the new one, with its index entry and the counts; returns what was put.

    A task whose record got too large is dead from then on, with the reason as
    its result, so that it stops nobody else.
    """
    changed = [(old, _written(tx, new)) for old, new in pairs]
    reindex(tx, changed)
    return [new for _, new in changed]


def add(tx: Tx, tasks: Iterable[Task]) -> None:
    """Put new tasks into the queue; raises ``TooLarge``."""
    added = list(tasks)
    for task in added:
        TASK_TABLE.put(tx, FLEET, task.id, task)
    reindex(tx, [(None, task) for task in added])


def _written(tx: Tx, task: Task) -> Task:
    try:
        TASK_TABLE.put(tx, FLEET, task.id, task)
    except TooLarge as error:
        dead = model.bury(task, f"its record got too large: {error.message}", now=tx.now)
        TASK_TABLE.put(tx, FLEET, task.id, dead)
        tx.event(FLEET, "task dead", task=task.id, error=error.message)
        return dead
    return task


def reindex(tx: Tx, pairs: Iterable[tuple[Task | None, Task | None]]) -> None:
    """Bring index and counts from each old task to the new one."""
    queue = read_counts(tx.read(FLEET, layout.QUEUE_RECORD))
    for old, new in pairs:
        before = layout.index_path(old) if old is not None else None
        after = layout.index_path(new) if new is not None else None
        if before != after:
            if before is not None:
                tx.delete(FLEET, before)
            if after is not None:
                tx.write(FLEET, after, layout.MARKER)
        for task, change in ((old, -1), (new, 1)):
            if task is not None:
                queue["counts"][task.state] = max(0, queue["counts"].get(task.state, 0) + change)
        if new is not None:
            queue["sequence"] = max(queue["sequence"], _following(new))
    _write_counts(tx, queue)


def _following(task: Task) -> int:
    """The sequence number after a task's; one that a person made up far ahead does not count."""
    return task.sequence + 1 if task.sequence < MAX_SEQUENCE // 2 else 0


def get(tx: Tx, task_id: str) -> Task | None:
    """The task, or ``None`` when there is none or a person broke its record."""
    try:
        return TASK_TABLE.get(tx, FLEET, task_id)
    except (Corrupt, NewerSchema, InvalidName):
        return None


def _ready(tx: Tx, classes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(sorted key, index path) of the queued tasks of ``classes``, best first, read lazily."""

    def of_class(name: str) -> Iterator[tuple[str, str]]:
        top = f"{layout.READY}/{name}"
        for priority in tx.names(FLEET, top):
            for high in tx.names(FLEET, f"{top}/{priority}"):
                for middle in tx.names(FLEET, f"{top}/{priority}/{high}"):
                    folder = f"{top}/{priority}/{high}/{middle}"
                    for leaf in tx.names(FLEET, folder):
                        yield f"{priority}/{high}/{middle}/{leaf}", f"{folder}/{leaf}"

    return heapq.merge(*(of_class(name) for name in classes))


def _backing_off(tx: Tx, until: float = math.inf) -> Iterator[list[tuple[float | None, str]]]:
    """Second by second, earliest first: when each back-off ends, and its index path. ``None`` for strays."""
    for block in tx.names(FLEET, layout.BACKING_OFF):
        if (layout.due_at(block) or 0.0) > until:
            return
        for part in tx.names(FLEET, f"{layout.BACKING_OFF}/{block}"):
            if (layout.due_at(block, part) or 0.0) > until:
                break
            folder = f"{layout.BACKING_OFF}/{block}/{part}"
            yield [
                (layout.due_at(block, part, name), f"{folder}/{fan}/{name}")
                for fan in tx.names(FLEET, folder)
                for name in tx.names(FLEET, f"{folder}/{fan}")
            ]


def promote_due(tx: Tx) -> int:
    """Put tasks whose back-off has ended back into the queue; returns how many."""
    found: list[Task] = []
    stray: list[str] = []
    for at, path in (entry for part in _backing_off(tx, until=tx.now) for entry in part):
        if len(found) >= PROMOTE_PAGE:
            break
        if at is not None and at > tx.now:
            continue
        task = get(tx, path.rpartition("/")[2].partition("-")[2]) if at is not None else None
        if task is None or layout.index_path(task) != path:
            stray.append(path)
        else:
            found.append(task)
    for path in stray:
        tx.delete(FLEET, path)
    if found:
        put(tx, [(task, model.due(task)) for task in found])
    return len(found)


def next_due(tx: Tx) -> float | None:
    """When the earliest back-off ends, in seconds since the epoch."""
    for part in _backing_off(tx):
        known = [at for at, _ in part if at is not None]
        if known:
            return min(known)
    return None


def lease(tx: Tx, worker: str, tools: Iterable[str], count: int) -> list[Task]:
    """Lease the best ``count`` queued tasks of ``tools`` to ``worker``.

    Fewer when there are fewer, or when all that the worker holds would no
    longer fit into one commit: then it could not be taken back at once.
    """
    if count <= 0:
        return []
    room = HELD_BYTES - sum(size_of(tx, task) for task in leased_to(tx, worker))
    promote_due(tx)
    present = set(tx.names(FLEET, layout.READY))
    classes = sorted({layout.ready_class(tool) for tool in tools} & present)
    chosen: list[Task] = []
    stray: list[str] = []
    for _, path in _ready(tx, classes):
        if len(chosen) >= count:
            break
        task = get(tx, path.rpartition("/")[2].partition("-")[2])
        if task is None or layout.index_path(task) != path:
            stray.append(path)
        else:
            room -= size_of(tx, task)
            if room < 0:
                break
            chosen.append(task)
    for path in stray:
        tx.delete(FLEET, path)
    leased: list[Task] = []
    if chosen:
        granted = [(task, model.lease(task, worker, now=tx.now, revision=tx.revision)) for task in chosen]
        leased = [task for task in put(tx, granted) if task.state is State.LEASED]
        for task in leased:
            tx.event(FLEET, "task leased", task=task.id, worker=worker, attempt=task.attempt, token=tx.revision)
    return leased


def fits(task: Task) -> bool:
    """Whether a task's record leaves room for what happens to it later."""
    try:
        return len(encode(task)) <= MAX_RECORD - HEADROOM
    except TooLarge:
        return False


def _ended(held: Task, result: TaskResult, now: float) -> Task:
    """The task after ``result``, of which only the ends of the texts are kept where the record would get too large."""
    ended = model.finish(held, result, now=now)
    if not fits(ended):
        kept = {"output": result.output[-KEPT:], "error": result.error[-KEPT:], "data": {}, "artifacts": ()}
        return model.finish(held, result.model_copy(update={**kept, "truncated": True}), now=now)
    return ended


def finish(tx: Tx, task_id: str, worker: str, token: int, result: TaskResult) -> str | None:
    """Apply the holder's result; a result from a lost lease is refused and audited.

    Returns the reason of a refusal.
    """
    task = get(tx, task_id)
    try:
        held = model.check_fence(task, task_id, worker, token)
    except LeaseLost as refusal:
        if task is not None and any(
            a.token == token and a.worker == worker and a.outcome in _REPORTED for a in task.history
        ):
            return None  # this very result was applied already: its acknowledgement was lost
        tx.event(
            FLEET,
            "task result refused",
            task=task_id,
            worker=worker,
            token=token,
            success=result.success,
            reason=refusal.message,
        )
        return refusal.message
    (ended,) = put(tx, [(held, _ended(held, result, tx.now))])
    tx.event(
        FLEET,
        f"task {ended.state}",
        task=task_id,
        worker=worker,
        attempt=held.attempt,
        error=None if result.success else result.error[:300],
    )
    return None


def give_back(tx: Tx, task_id: str, worker: str, token: int, reason: str) -> bool:
    """Return a leased task to the queue; ``False``, audited, when it is no longer the worker's."""
    task = get(tx, task_id)
    try:
        held = model.check_fence(task, task_id, worker, token)
    except LeaseLost as refusal:
        if task is None or not any(a.token == token and a.outcome == "given back" for a in task.history):
            tx.event(FLEET, "task return refused", task=task_id, worker=worker, token=token, reason=refusal.message)
        return False
    put(tx, [(held, model.give_back(held, reason[:500], now=tx.now))])
    tx.event(FLEET, "task given back", task=task_id, worker=worker, reason=reason)
    return True


def size_of(tx: Tx, task: Task) -> int:
    """Bytes of a task's record."""
    return len(tx.read(FLEET, TASK_TABLE.path(task.id)) or b"")


def leased_to(tx: Tx, worker: str) -> list[Task]:
    """The tasks that ``worker`` holds."""
    found = []
    top = f"{layout.LEASED}/{encode_component(worker)}"
    for folder in tx.names(FLEET, top):
        for task_id in tx.names(FLEET, f"{top}/{folder}"):
            task = get(tx, task_id)
            if task is not None and task.lease is not None and task.lease.worker == worker:
                found.append(task)
    return found


def holders(tx: Tx) -> set[str]:
    """Ids of the workers that hold tasks."""
    found = set()
    for folder in tx.names(FLEET, layout.LEASED):
        top = f"{layout.LEASED}/{folder}"
        held = (get(tx, task_id) for part in tx.names(FLEET, top) for task_id in tx.names(FLEET, f"{top}/{part}"))
        task = next((task for task in held if task is not None and task.lease is not None), None)
        if task is not None and task.lease is not None:
            found.add(task.lease.worker)
    return found


def lose_all(tx: Tx, worker: str, reason: str) -> int:
    """End every lease of ``worker``, its tasks going back to the queue; returns how many there were."""
    held = leased_to(tx, worker)
    if held:
        put(tx, [(task, model.lose(task, reason, now=tx.now)) for task in held])
        for task in held:
            tx.event(FLEET, "task lease lost", task=task.id, worker=worker, attempt=task.attempt, reason=reason)
    return len(held)


def rebuild(tx: Tx) -> None:
    """Make index and counts anew from the records, after a person broke one of them."""
    wanted: set[str] = set()
    counts: dict[State, int] = {}
    following = 0
    for task in TASK_TABLE.all(tx, FLEET):
        wanted.add(layout.index_path(task))
        counts[task.state] = counts.get(task.state, 0) + 1
        following = max(following, _following(task))
    for path in list(tx.walk(FLEET, "index")):
        if path not in wanted:
            tx.delete(FLEET, path)
    for path in wanted:
        tx.write(FLEET, path, layout.MARKER)
    known = read_counts(tx.read(FLEET, layout.QUEUE_RECORD))["sequence"]
    _write_counts(tx, {"sequence": max(known, following), "counts": counts})
