"""What people commit to a hub by hand: taken over where it is sound, set aside where it is not.

A commit without ghcoord's trailers reaches the next transaction of its space
here, with the last state that ghcoord wrote.  A sound record is restamped and
indexed.  A broken one moves to ``broken/`` with the reason, the last good
version comes back, and nothing else stops.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from ghcoord.coord import layout, queue
from ghcoord.coord.context import FENCE_TABLE, KEY_TABLE, LOCK_TABLE, TASK_TABLE, WORKER_TABLE
from ghcoord.coord.layout import FLEET, namespace_of
from ghcoord.coord.table import Table
from ghcoord.errors import Corrupt, NewerSchema
from ghcoord.model.codec import Record, encode, to_json
from ghcoord.model.memory import MemoryEntry
from ghcoord.store.base import ROOT_RECORD
from ghcoord.store.heads import walk
from ghcoord.store.snapshot import Snapshot, diff
from ghcoord.store.tx import Tx

MAX_BY_HAND = 900_000
"""Bytes of a record that is taken over: what happens to it afterwards must fit as well."""


MAX_LOOK_BACK = 100
"""Commits by people that are searched for a record's last readable version."""


def tables_of(space: str) -> list[Table[Any]]:
    """The tables whose records lie in ``space``."""
    if space == FLEET:
        return [TASK_TABLE, WORKER_TABLE]
    if space == layout.LOCKS:
        return [LOCK_TABLE]
    return [KEY_TABLE, FENCE_TABLE] if namespace_of(space) is not None else []


def table_at(space: str, path: str) -> Table[Any] | None:
    """The table that the record at ``path`` belongs to."""
    return next((table for table in tables_of(space) if path.startswith(table.folder + "/")), None)


def adopt(tx: Tx, space: str, base: Snapshot, present: Snapshot) -> None:
    """Take over what people changed in ``space`` between ``base`` and ``present``."""
    changed: list[str] = []
    reindex = False
    for path, _, _ in diff(base.store, base, present):
        if path.startswith(layout.BROKEN + "/") or path == ROOT_RECORD:
            continue
        table = table_at(space, path)
        if table is None:
            reindex = reindex or (space == FLEET and (path.startswith("index/") or path == layout.QUEUE_RECORD))
            continue
        changed.append(path)
        reindex = reindex or table is TASK_TABLE
        data = tx.read(space, path)
        if data is None:
            tx.event(space, "record deleted by hand", path=_printable(path))
            continue
        try:
            record = _sound(table, data, space, path)
        except (Corrupt, NewerSchema) as reason:
            _set_aside(tx, space, path, data, _last_good(table, base, present, path), reason.message)
            continue
        tx.event(space, "record edited by hand", path=_printable(path))
        if isinstance(record, MemoryEntry):
            # Whoever compares revisions must see that it is not what they read.
            tx.write(space, path, encode(record.model_copy(update={"revision": tx.revision})))
    if reindex:
        queue.rebuild(tx)


def _printable(text: str) -> str:
    """``text`` with the bytes of file names that are no UTF-8 written out."""
    return text.encode(errors="backslashreplace").decode()


def _last_good(table: Table[Any], base: Snapshot, present: Snapshot, path: str) -> bytes | None:
    """The nearest readable version of a record among people's commits since ``base``, and ``base`` itself."""
    if present.head is None:
        return None
    own = (info.oid for info, _ in walk(present.store, present.head, lambda info, stamp: stamp is None))
    versions = (Snapshot(present.store, present.space, oid) for oid in islice(own, MAX_LOOK_BACK))
    for snapshot in (*versions, base):
        data = snapshot.read(path)
        if data is None:
            continue
        try:
            _sound(table, data, present.space, path)
        except (Corrupt, NewerSchema):
            continue
        return data
    return None


def _sound(table: Table[Any], data: bytes, space: str, path: str) -> Record:
    """The record in ``data``; raises ``Corrupt`` or ``NewerSchema`` for one that cannot be kept."""
    record: Record = table.decode(data, space, path)
    if len(data) > MAX_BY_HAND:
        raise Corrupt(f"{space}:{path} has {len(data)} bytes: by hand at most {MAX_BY_HAND}")
    return record


def _set_aside(tx: Tx, space: str, path: str, data: bytes, before: bytes | None, reason: str) -> None:
    aside = f"{layout.BROKEN}/{_printable(path)}"
    tx.write(space, aside, data)
    tx.write(
        space,
        f"{aside}.reason.json",
        to_json({"path": _printable(path), "reason": _printable(reason), "restored": before is not None}).encode(),
    )
    if before is not None:
        tx.write(space, path, before)
    else:
        tx.delete(space, path)
    tx.event(space, "broken record set aside", path=_printable(path), reason=_printable(reason[:300]))


def set_aside(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What lies in ``broken/``: path, reason, and whether the version before was restored."""
    found = []
    for path, _ in snapshot.walk(layout.BROKEN):
        if path.endswith(".reason.json"):
            try:
                note = json.loads(snapshot.read(path) or b"{}")
            except (ValueError, RecursionError):
                continue
            if isinstance(note, dict):
                found.append({"space": snapshot.space, "aside": path.removesuffix(".reason.json"), **note})
    return found


def broken_records(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Records that cannot be read where they lie; the next transaction of the space sets them aside."""
    found = []
    for table in tables_of(snapshot.space):
        for path, _ in snapshot.walk(table.folder):
            try:
                table.decode(snapshot.read(path) or b"", snapshot.space, path)
            except (Corrupt, NewerSchema) as reason:
                broken = {"path": _printable(path), "reason": _printable(reason.message)}
                found.append({"space": snapshot.space, **broken})
    return found
