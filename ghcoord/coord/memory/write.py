"""Writing to memory inside a transaction: conditions first, then all changes, then a few ended values go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ghcoord.coord import layout
from ghcoord.coord.context import FENCE_TABLE, KEY_TABLE, LOCK_TABLE
from ghcoord.coord.layout import DEFAULT_NAMESPACE, LOCKS, memory_space
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.memory.index import Stored
from ghcoord.errors import Corrupt, NewerSchema, TooLarge, UsageError
from ghcoord.ids import check_name
from ghcoord.model import memory as model
from ghcoord.model.codec import check_value, encode, stamp
from ghcoord.model.lease import MAX_TTL
from ghcoord.model.memory import Fence, MemoryEntry
from ghcoord.store.tx import Tx

MAX_OPS = 5000
"""Keys that one atomic change touches at most; many more would not fit into a commit on every store."""

SWEPT = 8
"""Ended values that a write removes at most, besides two for each key that it changes."""

SWEPT_FOR_ROOM = 200
"""Ended values that are removed at most to make room where the quota of keys is used up."""


class FencedBy(NamedTuple):
    """The lock, and the fencing token under which its holder writes."""

    lock: str
    token: int


@dataclass(frozen=True, slots=True)
class SetKey:
    """Set a key: with ``if_revision`` only if it is at that revision (0: not set); ``ttl`` in seconds ends it."""

    key: str
    value: Any
    namespace: str = DEFAULT_NAMESPACE
    if_revision: int | None = None
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class DeleteKey:
    """Remove a key: with ``if_revision`` only if it is at that revision."""

    key: str
    namespace: str = DEFAULT_NAMESPACE
    if_revision: int | None = None


@dataclass(frozen=True, slots=True)
class CheckKey:
    """Change nothing unless a key is at ``if_revision`` (0: not set)."""

    key: str
    if_revision: int
    namespace: str = DEFAULT_NAMESPACE


Op = SetKey | DeleteKey | CheckKey
Result = MemoryEntry | bool | None
"""Of a :class:`SetKey` the new entry, of a :class:`DeleteKey` whether it was set, of a :class:`CheckKey` the entry."""


def checked(ops: Iterable[Op]) -> list[Op]:
    """``ops`` with their keys normalised; raises for what could not be done whatever the state."""
    found: list[Op] = []
    seen: set[tuple[str, str]] = set()
    for op in ops:
        key = check_name(op.key, "key")
        memory_space(op.namespace)
        if isinstance(op, SetKey):
            check_value(op.value, "value")
            check_ttl(op.ttl)
        if isinstance(op, CheckKey) and op.if_revision is None:
            raise UsageError(f"the check of {key!r} names no revision: give if_revision, 0 for a key that is not set")
        if (op.namespace, key) in seen:
            raise UsageError(f"the key {key!r} is there twice: one change takes each key once")
        seen.add((op.namespace, key))
        found.append(replace(op, key=key))
    if len(found) > MAX_OPS:
        raise TooLarge(f"{len(found)} keys in one change: at most {MAX_OPS} are accepted, as it is made as one commit")
    return found


def check_ttl(ttl: float | None) -> None:
    """Raise ``UsageError`` for a ttl that no value can have."""
    if ttl is not None and not 0 < ttl <= MAX_TTL:
        raise UsageError(f"a ttl of {ttl:g} s is out of range: give more than 0 s, at most 30 days")


def spaces_of(ops: Iterable[Op]) -> tuple[str, ...]:
    """The spaces that ``ops`` read or change, sorted."""
    return tuple(sorted({memory_space(op.namespace) for op in ops}))


def apply(
    tx: Tx, ops: Sequence[Op], *, fence: tuple[str, int] | None, actor: str, quota: int | None = None
) -> list[Result]:
    """Carry out all of ``ops``, or raise and change nothing.

    Every condition is judged on the state before.  ``quota`` is the number of
    keys that a namespace may have.
    """
    changed = spaces_of(op for op in ops if not isinstance(op, CheckKey))
    if fence is not None:
        for space in changed or spaces_of(ops):
            _check_fence(tx, space, fence)
    for space in changed:
        memory_index.ensure(tx, space)
    alive = [_judged(tx, op) for op in ops]
    found: list[Result] = []
    touched: dict[str, int] = {}
    for op, entry in zip(ops, alive, strict=True):
        space = memory_space(op.namespace)
        if isinstance(op, CheckKey):
            found.append(entry)
        elif isinstance(op, SetKey):
            found.append(_set(tx, op, actor, quota))
            touched[space] = touched.get(space, 0) + 1
        else:
            touched[space] = touched.get(space, 0) + _delete(tx, op, actor)
            found.append(entry is not None)
    for space, count in touched.items():
        if count:
            sweep(tx, space, SWEPT + 2 * count)
    return found


def _check_fence(tx: Tx, space: str, fence: tuple[str, int]) -> None:
    name, token = fence
    seen = FENCE_TABLE.get(tx, space, name)
    if LOCKS not in tx.spaces:  # one space at a time: the fence in it stands for the lock
        model.check_raised_fence(seen, name, token, layout.namespace_of(space) or space)
        return
    model.check_fence(LOCK_TABLE.get(tx, LOCKS, name), seen, name, token)
    if seen is None or seen.token < token:
        FENCE_TABLE.put(tx, space, name, Fence(lock=name, token=token))


def _judged(tx: Tx, op: Op) -> MemoryEntry | None:
    """The entry that is set, if the condition of ``op`` holds."""
    try:
        old = memory_index.read(tx, memory_space(op.namespace), op.key)
    except (Corrupt, NewerSchema):
        if op.if_revision is not None:
            raise
        old = None  # a plain write repairs what a person broke
    alive = None if old is None or old.entry.expired(tx.now) else old.entry
    model.check_revision(alive, op.key, op.if_revision)
    return alive


def _set(tx: Tx, op: SetKey, actor: str, quota: int | None) -> MemoryEntry:
    space, path = memory_space(op.namespace), KEY_TABLE.path(op.key)
    if quota is not None and memory_index.sound(tx, space, path) is None:
        _make_room(tx, space, quota, op.namespace)
    entry = MemoryEntry(
        key=op.key, value=op.value, revision=tx.revision, updated_at=stamp(tx.now), updated_by=actor, ttl=op.ttl
    )
    data = encode(entry)
    old = memory_index.sound(tx, space, path)
    tx.write(space, path, data)
    memory_index.change(tx, space, old, Stored(entry, len(data)))
    tx.event(space, "memory set", key=op.key, by=actor)
    return entry


def _make_room(tx: Tx, space: str, quota: int, namespace: str) -> None:
    """Raise ``TooLarge`` unless another key may be made, once values that have ended are gone."""
    if memory_index.counts(tx, space).keys >= quota:
        sweep(tx, space, SWEPT_FOR_ROOM)
    if memory_index.counts(tx, space).keys >= quota:
        raise TooLarge(
            f"the namespace {namespace!r} may have {quota} keys and has them: delete some, or raise quota.memory_keys",
            code="QUOTA_EXCEEDED",
        )


def _delete(tx: Tx, op: DeleteKey, actor: str) -> bool:
    """Take away whatever lies in the place of a key; ``False`` where nothing does."""
    space, path = memory_space(op.namespace), KEY_TABLE.path(op.key)
    if tx.read(space, path) is None:
        return False
    remove(tx, space, op.key, memory_index.sound(tx, space, path))
    tx.event(space, "memory deleted", key=op.key, by=actor)
    return True


def remove(tx: Tx, space: str, key: str, old: Stored | None) -> None:
    """Take a key's record away, ``old`` being what could be read of it."""
    KEY_TABLE.remove(tx, space, key)
    memory_index.change(tx, space, old, None)


def drop(tx: Tx, space: str, keys: Iterable[str], newest: int, actor: str) -> int:
    """Remove those of ``keys`` that were set at the revision ``newest`` at the latest; returns how many were set."""
    memory_index.ensure(tx, space)
    found = [memory_index.sound(tx, space, KEY_TABLE.path(key)) for key in keys]
    doomed = [stored for stored in found if stored is not None and stored.entry.revision <= newest]
    for stored in doomed:
        remove(tx, space, stored.entry.key, stored)
    if doomed:
        tx.event(space, "memory dropped", count=len(doomed), by=actor)
    return sum(not stored.entry.expired(tx.now) for stored in doomed)


def sweep(tx: Tx, space: str, limit: int) -> int:
    """Remove at most ``limit`` values whose time is over, those first that ended first; returns how many."""
    ended: list[Stored] = []
    strays: list[str] = []
    for path in memory_index.due(lambda folder: tx.names(space, folder), tx.now):
        if len(ended) + len(strays) >= limit:
            break
        stored = memory_index.sound(tx, space, memory_index.record_of(path))
        if stored is None or memory_index.expiry_of(stored) != path:
            strays.append(path)
        elif stored.entry.expired(tx.now):
            ended.append(stored)
    for path in strays:
        tx.delete(space, path)
    for stored in ended:
        remove(tx, space, stored.entry.key, stored)
    if ended:
        tx.event(space, "memory expired", count=len(ended), key=ended[0].entry.key if len(ended) == 1 else None)
    return len(ended)
