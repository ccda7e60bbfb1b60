"""Memory as lines of JSON: out of one moment's state, and back in batches that may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ghcoord.coord.care.rehearse import rehearse
from ghcoord.coord.context import KEY_TABLE, Context
from ghcoord.coord.layout import DEFAULT_NAMESPACE, memory_space
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.memory import write as memory_write
from ghcoord.coord.memory.write import SetKey
from ghcoord.errors import Corrupt, NewerSchema, RevisionMismatch, UsageError
from ghcoord.model.codec import to_json
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

BATCH_KEYS = 500
"""Keys that one commit of an import sets at most."""

BATCH_BYTES = 16_000_000
"""Bytes of values in one commit of an import at most."""

EXISTING = ("refuse", "skip", "overwrite")
"""What an import may do with a key that has another value."""

FIELDS = ("namespace", "key", "value", "ttl", "revision", "updated_at", "updated_by")
"""Fields of a line; of the last three an import takes no notice: it writes anew."""


@dataclass(slots=True)
class Imported:
    """What an import did, or would do: keys set anew, overwritten, left as they are, and equal already."""

    created: int = 0
    overwritten: int = 0
    skipped: int = 0
    unchanged: int = 0

    def add(self, other: Imported) -> None:
        self.created += other.created
        self.overwritten += other.overwritten
        self.skipped += other.skipped
        self.unchanged += other.unchanged

    @property
    def done(self) -> int:
        """How many lines that accounts for."""
        return self.created + self.overwritten + self.skipped + self.unchanged


def export(context: Context, namespaces: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every key of ``namespaces`` as of the moment of the call; ``ttl`` is what is left of it, in seconds."""
    spaces = {memory_space(name): name for name in namespaces}
    return _lines(context.transactor.view(*spaces), spaces, context.now())


def _lines(snapshots: Mapping[str, Snapshot], names: Mapping[str, str], now: float) -> Iterator[dict[str, Any]]:
    for space, snapshot in snapshots.items():
        for marker in memory_index.markers(snapshot):
            try:
                entry = KEY_TABLE.find(snapshot, marker.key)
            except (Corrupt, NewerSchema):
                continue
            if entry is None or entry.expired(now):
                continue
            left = None if entry.expires_at is None else max(0.001, round(entry.expires_at.timestamp() - now, 3))
            yield {
                "namespace": names[space],
                "key": entry.key,
                "value": entry.value,
                "ttl": left,
                "revision": entry.revision,
                "updated_at": entry.updated_at.isoformat().replace("+00:00", "Z"),
                "updated_by": entry.updated_by,
            }


def parse(line: Mapping[str, Any]) -> SetKey:
    """A line of an export as what sets the key; raises ``UsageError`` or ``TooLarge`` saying what is wrong with it."""
    for name in line:
        if name not in FIELDS:
            raise UsageError(f"{name[:40]!r} is no field of a key: one of {', '.join(FIELDS)}")
    for name in ("key", "value"):
        if name not in line:
            raise UsageError(f"the field {name!r} is missing")
    key, namespace, ttl = line["key"], line.get("namespace", DEFAULT_NAMESPACE), line.get("ttl")
    if not isinstance(key, str) or not isinstance(namespace, str):
        raise UsageError("key and namespace must be texts")
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int | float)):
        raise UsageError("ttl must be a number of seconds, or null")
    (one,) = memory_write.checked([SetKey(key, line["value"], namespace, ttl=ttl)])
    assert isinstance(one, SetKey)
    return one


def check_unique(ops: Iterable[SetKey]) -> None:
    """Raise ``UsageError`` where a key is there twice: which value would hold?"""
    seen: set[tuple[str, str]] = set()
    for op in ops:
        if (op.namespace, op.key) in seen:
            raise UsageError(f"the key {op.key!r} of the namespace {op.namespace!r} is there twice")
        seen.add((op.namespace, op.key))


def batches(ops: Iterable[SetKey]) -> Iterator[list[SetKey]]:
    """``ops`` in their order, cut where a commit is full or the namespace changes."""
    batch: list[SetKey] = []
    size = 0
    for op in ops:
        weight = len(to_json(op.value))
        full = len(batch) >= BATCH_KEYS or size + weight > BATCH_BYTES
        if batch and (full or op.namespace != batch[0].namespace):
            yield batch
            batch, size = [], 0
        batch.append(op)
        size += weight
    if batch:
        yield batch


def bring_in(
    context: Context,
    lines: Iterable[Mapping[str, Any] | SetKey],
    existing: str,
    dry_run: bool,
    progress: Callable[[int], None],
    quota: int | None,
) -> Imported:
    """Set the keys of ``lines``, all of which are looked at before the first is set."""
    if existing not in EXISTING:
        raise UsageError(f"existing={existing!r} is unknown: one of {', '.join(EXISTING)}")
    ops = [line if isinstance(line, SetKey) else parse(line) for line in lines]
    check_unique(ops)
    if existing == "refuse" and not dry_run:
        for batch in batches(ops):
            _rehearsed(context, batch, existing, quota)
    total = Imported()
    for batch in batches(ops):
        total.add((_rehearsed if dry_run else _brought_in)(context, batch, existing, quota))
        progress(total.done)
    return total


def _rehearsed(context: Context, batch: list[SetKey], existing: str, quota: int | None) -> Imported:
    return rehearse(context, memory_write.spaces_of(batch), lambda tx: _set(tx, batch, existing, context.actor, quota))


def _brought_in(context: Context, batch: list[SetKey], existing: str, quota: int | None) -> Imported:
    spaces = memory_write.spaces_of(batch)
    return context.transact(spaces, lambda tx: _set(tx, batch, existing, context.actor, quota))


def _set(tx: Tx, batch: list[SetKey], existing: str, actor: str, quota: int | None) -> Imported:
    found = Imported()
    wanted = []
    for op in batch:
        stored = memory_index.sound(tx, memory_space(op.namespace), KEY_TABLE.path(op.key))
        entry = None if stored is None or stored.entry.expired(tx.now) else stored.entry
        if entry is None:
            found.created += 1
        elif to_json(entry.value) == to_json(op.value):  # in Python 1 equals true
            found.unchanged += 1
            continue
        elif existing == "skip":
            found.skipped += 1
            continue
        elif existing == "refuse":
            raise RevisionMismatch(
                f"{op.key!r} in the namespace {op.namespace!r} has another value: overwrite or skip what is there",
                expected=0,
                actual=entry.revision,
            )
        else:
            found.overwritten += 1
        wanted.append(op)
    if wanted:
        memory_write.apply(tx, wanted, fence=None, actor=actor, quota=quota)
    return found
