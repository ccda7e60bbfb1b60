"""Unique keys: which tasks stand for the digest of a key, and whether a new one may stand beside them.

A task counts while it is in one of the states that it was submitted with, and,
with a period, for so long after it was submitted.  ``index/unique`` has a small
file for each digest of which a task counts, with these tasks' ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ghcoord.coord import layout
from ghcoord.coord.layout import FLEET, UNIQUE
from ghcoord.coord.queue import lookup
from ghcoord.coord.queue.lookup import Pair
from ghcoord.errors import IllegalTransition
from ghcoord.model.codec import to_json
from ghcoord.model.task import Task, Unique
from ghcoord.store.tx import Tx

MOST = 64
"""Tasks of one digest that are kept: more only count where submissions of one key differ in what they ask for."""


def digest_of(*what: Any) -> str:
    """The digest of any JSON values; objects count as equal however their keys are ordered."""
    text = json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def find(tx: Tx, unique: Unique, made: Iterable[Task] = (), beside: str | None = None) -> Task | None:
    """The newest task beside which one with ``unique`` must not stand; ``made`` are those of this transaction.

    ``beside`` is the id of that one, if it has one already.
    """
    known = (lookup.get(tx, task_id) for task_id in _read(tx, unique.digest) if task_id != beside)
    present = [task for task in (*known, *made) if task is not None and _counts(task, unique, tx.now)]
    return max(present, key=lambda task: task.sequence, default=None)


def _counts(task: Task, unique: Unique, now: float) -> bool:
    """Whether ``task`` counts by its own terms and by those of ``unique``."""
    if task.unique is None or task.unique.digest != unique.digest:
        return False
    age = now - task.created_at.timestamp()
    return all(
        task.state in terms.states and (terms.period is None or age < terms.period) for terms in (task.unique, unique)
    )


def check_retry(tx: Tx, task: Task, made: Iterable[Task] = ()) -> None:
    """Raises ``IllegalTransition`` when another task stands for the unique key of ``task``, which is to be retried.

    ``made`` are others that this transaction is about to put.
    """
    other = None if task.unique is None else find(tx, task.unique, made, beside=task.id)
    if other is not None:
        raise IllegalTransition(
            f"task {task.id} cannot be retried beside task {other.id}, which is {other.state} and has its unique key"
        )


# -- the index


def settle(tx: Tx, pairs: Sequence[Pair]) -> None:
    """Follow the tasks that changed."""
    changed: dict[str, dict[str, Task | None]] = {}
    for old, new in pairs:
        for digest in _digests(old) ^ _digests(new):
            last = new or old
            if last is not None:
                changed.setdefault(digest, {})[last.id] = new if digest in _digests(new) else None
    for digest, tasks in sorted(changed.items()):
        known = {task_id: lookup.get(tx, task_id) for task_id in _read(tx, digest)}
        _write(tx, digest, {**known, **tasks}.values())


def _digests(task: Task | None) -> set[str]:
    """The digest under which ``task`` lies in the index, if it does."""
    if task is None or task.unique is None or task.state not in task.unique.states:
        return set()
    return {task.unique.digest}


def _read(tx: Tx, digest: str) -> list[str]:
    raw = tx.read(FLEET, layout.unique_path(digest))
    try:
        found = json.loads(raw)["tasks"] if raw is not None else []
        return [str(task_id) for task_id in found][:MOST]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []  # a person broke it; rebuild() makes it anew


def _write(tx: Tx, digest: str, tasks: Iterable[Task | None]) -> None:
    """Keep the newest of ``tasks`` that count by their own terms."""
    kept = sorted(_standing(tx, digest, tasks), key=lambda task: task.sequence)[-MOST:]
    if kept:
        content = to_json({"tasks": [task.id for task in kept]}).encode()
        tx.write(FLEET, layout.unique_path(digest), content)
    else:
        tx.delete(FLEET, layout.unique_path(digest))


def _standing(tx: Tx, digest: str, tasks: Iterable[Task | None]) -> Iterator[Task]:
    for task in tasks:
        if task is None or task.unique is None or digest not in _digests(task):
            continue
        if _counts(task, task.unique, tx.now):
            yield task


def rebuild(tx: Tx, tasks: Sequence[Task]) -> None:
    """Make the index anew from the tasks that have a unique key."""
    found: dict[str, list[Task | None]] = {}
    for task in tasks:
        for digest in _digests(task):
            found.setdefault(digest, []).append(task)
    wanted = {layout.unique_path(digest) for digest in found}
    for path in list(tx.walk(FLEET, UNIQUE)):
        if path not in wanted:
            tx.delete(FLEET, path)
    for digest, present in sorted(found.items()):
        _write(tx, digest, present)
