"""What a namespace keeps beside its records: the ordered index, the times at which values end, and the counts.

Everything here follows from the records, in the transaction that changes them.
A namespace written by hand or by an older ghcoord gets it with :func:`rebuild`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from ghcoord.coord import layout
from ghcoord.coord.context import KEY_TABLE
from ghcoord.coord.layout import EXPIRY, INDEX, KEYS, MARKER, NAMESPACE_RECORD
from ghcoord.coord.memory.trie import Marker, Trie, arrange, listed
from ghcoord.errors import Corrupt, NewerSchema
from ghcoord.model.codec import MAX_NUMBER, to_json
from ghcoord.model.memory import MemoryEntry
from ghcoord.store.heads import stamp_of, stamped_base
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx


class Stored(NamedTuple):
    """A readable record, and how many bytes it has."""

    entry: MemoryEntry
    size: int

    @property
    def ends(self) -> datetime | None:
        return self.entry.expires_at


class Counts(NamedTuple):
    """How many records a namespace holds, ended ones that nobody has removed yet among them, and their bytes."""

    keys: int = 0
    bytes: int = 0


def read_counts(raw: bytes | None) -> Counts:
    """The counts in a namespace's record; zeros where a person broke it, until the next write counts afresh."""
    try:
        value = json.loads(raw) if raw is not None else {}
        found = Counts(int(value["keys"]), int(value["bytes"]))
        return found if all(0 <= number <= MAX_NUMBER for number in found) else Counts()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Counts()


def counts(tx: Tx, space: str) -> Counts:
    """The counts as the transaction sees them."""
    return read_counts(tx.read(space, NAMESPACE_RECORD))


def _write_counts(tx: Tx, space: str, counts: Counts) -> None:
    tx.write(space, NAMESPACE_RECORD, to_json({"format": 1, **counts._asdict()}).encode())


def read(tx: Tx, space: str, key: str) -> Stored | None:
    """The record of ``key``; raises ``Corrupt`` or ``NewerSchema``."""
    path = KEY_TABLE.path(key)
    data = tx.read(space, path)
    return None if data is None else Stored(KEY_TABLE.decode(data, space, path), len(data))


def sound(tx: Tx, space: str, path: str) -> Stored | None:
    """The record at ``path``; ``None`` where there is none, or none that can be read."""
    return _sound(tx.read(space, path), space, path)


def _sound(data: bytes | None, space: str, path: str) -> Stored | None:
    try:
        return None if data is None else Stored(KEY_TABLE.decode(data, space, path), len(data))
    except (Corrupt, NewerSchema):
        return None


def change(tx: Tx, space: str, old: Stored | None, new: Stored | None) -> None:
    """Bring index, times and counts from a key's old record to the new one."""
    if old is None and new is None:
        return
    if new is None and old is not None:
        Trie(tx, space).remove(old.entry.key)
    elif new is not None and (old is None or old.ends != new.ends):
        Trie(tx, space).put(Marker(new.entry.key, new.ends))
    before, after = expiry_of(old), expiry_of(new)
    if before != after:
        if before is not None:
            tx.delete(space, before)
        if after is not None:
            tx.write(space, after, MARKER)
    have = counts(tx, space)
    keys = have.keys + (new is not None) - (old is not None)
    size = have.bytes + (new.size if new is not None else 0) - (old.size if old is not None else 0)
    _write_counts(tx, space, Counts(max(0, keys), max(0, size)))


def expiry_of(stored: Stored | None) -> str | None:
    """The path in ``expiry`` of a record with a ttl."""
    if stored is None or stored.ends is None:
        return None
    return layout.expiry_path(stored.ends, stored.entry.key)


# -- making it anew


def ensure(tx: Tx, space: str) -> None:
    """Make what is not there yet: the namespace was written before there was an index."""
    if tx.read(space, NAMESPACE_RECORD) is None and tx.names(space, KEYS):
        rebuild(tx, space)


def rebuild(tx: Tx, space: str) -> Counts:
    """Make index, times and counts anew from the records. Reads every record of the namespace."""
    wanted: dict[str, bytes] = {}
    markers = []
    size = 0
    for path in tx.walk(space, KEYS):
        stored = sound(tx, space, path)
        if stored is not None:
            markers.append(Marker(stored.entry.key, stored.ends))
            size += stored.size
            expiry = expiry_of(stored)
            if expiry is not None:
                wanted[expiry] = MARKER
    wanted |= arrange(markers)
    for folder in (INDEX, EXPIRY):
        for path in list(tx.walk(space, folder)):
            if path not in wanted:
                tx.delete(space, path)
    for path, content in wanted.items():
        tx.write(space, path, content)
    found = Counts(len(markers), size)
    _write_counts(tx, space, found)
    return found


def follow(tx: Tx, space: str, base: Snapshot, present: Snapshot, paths: Iterable[str]) -> None:
    """Take over what people changed between ``base`` and ``present``, in ``paths`` of records and in the index."""
    if base.read(NAMESPACE_RECORD) is None or not _same(base, present, INDEX, EXPIRY, NAMESPACE_RECORD):
        rebuild(tx, space)
        return
    for path in paths:
        change(tx, space, _sound(base.read(path), space, path), sound(tx, space, path))


def _same(one: Snapshot, other: Snapshot, *paths: str) -> bool:
    return all(one.entry(path) == other.entry(path) for path in paths)


# -- reading it


def markers(snapshot: Snapshot, prefix: str = "", after: str | None = None) -> Iterator[Marker]:
    """The keys that start with ``prefix`` and sort behind ``after``, in their order, ended ones included.

    Costs what it returns.  Between an edit by hand and the next write, and in a
    namespace that has no index yet, it reads every record.
    """
    if _indexed(snapshot):
        yield from listed(snapshot, prefix, after)
        return
    found = (Marker(entry.key, entry.expires_at) for entry in KEY_TABLE.scan(snapshot))
    fitting = [one for one in found if one.key.startswith(prefix) and (after is None or one.key > after)]
    yield from sorted(fitting, key=lambda marker: marker.key)


def counted(snapshot: Snapshot) -> Counts:
    """What a namespace holds, from its counts where they are those of the records."""
    if _indexed(snapshot):
        return read_counts(snapshot.read(NAMESPACE_RECORD))
    found = [_sound(snapshot.read(path), snapshot.space, path) for path, _ in snapshot.walk(KEYS)]
    sizes = [stored.size for stored in found if stored is not None]
    return Counts(len(sizes), sum(sizes))


def _indexed(snapshot: Snapshot) -> bool:
    """Whether the index is that of the records: ghcoord wrote both last."""
    if snapshot.head is None or snapshot.entry(NAMESPACE_RECORD) is None:
        return False
    if stamp_of(snapshot.store, snapshot.store.commit_info(snapshot.head)) is not None:
        return True
    base = Snapshot(snapshot.store, snapshot.space, stamped_base(snapshot.store, snapshot.head)[0])
    return _same(base, snapshot, KEYS, INDEX, NAMESPACE_RECORD)


# -- values that have ended


def due(names: Callable[[str], Iterable[str]], until: float, since: float = 0.0) -> Iterator[str]:
    """Paths in ``expiry`` of the seconds from ``since`` to ``until``, in order; ``names`` lists a directory."""
    low, high = int(since), int(until)
    for block in sorted(names(EXPIRY)):
        start = layout.expiry_second(block)
        if start is None or start + (1 << 20) <= low:
            continue
        if start > high:
            return
        for part in sorted(names(f"{EXPIRY}/{block}")):
            start = layout.expiry_second(block, part)
            if start is None or start + (1 << 10) <= low:
                continue
            if start > high:
                break
            for second in sorted(names(f"{EXPIRY}/{block}/{part}")):
                start = layout.expiry_second(block, part, second)
                if start is not None and low <= start <= high:
                    yield from _leaves(names, f"{EXPIRY}/{block}/{part}/{second}")


def _leaves(names: Callable[[str], Iterable[str]], folder: str) -> Iterator[str]:
    for first in sorted(names(folder)):
        for second in sorted(names(f"{folder}/{first}")):
            for name in sorted(names(f"{folder}/{first}/{second}")):
                yield f"{folder}/{first}/{second}/{name}"


def record_of(path: str) -> str:
    """The path of the record that a path in ``expiry`` stands for."""
    return f"{KEYS}/{path.split('/', 4)[4]}.json"
