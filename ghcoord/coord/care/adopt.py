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

from ghcoord.coord import layout
from ghcoord.coord.artifacts import records as artifact_records
from ghcoord.coord.context import (
    ARTIFACT_TABLE,
    FENCE_TABLE,
    KEY_TABLE,
    LOCK_STATS_TABLE,
    LOCK_TABLE,
    PATH_TABLE,
    SCALER_TABLE,
    SCHEDULE_TABLE,
    SESSION_TABLE,
    TASK_TABLE,
    WORKER_TABLE,
)
from ghcoord.coord.layout import FLEET, namespace_of
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.queue import firing, rebuild, records
from ghcoord.coord.sessions import mending
from ghcoord.coord.table import Table
from ghcoord.errors import Corrupt, NewerSchema, TooLarge
from ghcoord.ids import encode_component
from ghcoord.model.codec import Record, encode, to_json
from ghcoord.model.memory import MemoryEntry
from ghcoord.model.task import Task
from ghcoord.store.heads import walk
from ghcoord.store.snapshot import Snapshot, diff
from ghcoord.store.tx import Tx

MAX_BY_HAND = 900_000
"""Bytes, as ghcoord writes it, of a record that is taken over: what happens to it afterwards must fit as well."""

MAX_ASIDE = 1_000_000
"""Bytes of a broken record that are kept in ``broken/``; the branch's history has all of it."""

MAX_TOTAL = 32_000_000
"""Bytes that are set aside and restored in one commit: half of what a store takes, as other changes go with it."""

LEVELS = 8
"""Directory levels below a table's folder that are looked into; records lie three levels deep."""

NOTE = ".reason.json"
"""End of the name of the file that says why a record lies in ``broken/``."""

MAX_LOOK_BACK = 100
"""Commits by people that are searched for a record's last readable version."""

_DERIVED = (layout.INDEX, layout.QUEUE_RECORD, layout.GATES)
"""What follows from the tasks' records; made anew when a person has touched it."""


class Room:
    """What one commit has room for."""

    def __init__(self) -> None:
        self._left = MAX_TOTAL

    def take(self, size: int) -> bool:
        """Take ``size`` bytes of it; ``False`` when they are not left."""
        if size > self._left:
            return False
        self._left -= size
        return True


def tables_of(space: str) -> list[Table[Any]]:
    """The tables whose records lie in ``space``."""
    if space == FLEET:
        return [TASK_TABLE, WORKER_TABLE, SESSION_TABLE, SCHEDULE_TABLE, SCALER_TABLE]
    if space == layout.FILES:
        return [ARTIFACT_TABLE]
    if space == layout.LOCKS:
        return [LOCK_TABLE, PATH_TABLE, LOCK_STATS_TABLE]
    return [KEY_TABLE, FENCE_TABLE] if namespace_of(space) is not None else []


def adopt(tx: Tx, space: str, base: Snapshot, present: Snapshot) -> None:
    """Take over what people changed in ``space`` between ``base`` and ``present``."""
    room = Room()
    tasks: list[tuple[Task | None, Task | None]] = []
    keys: list[str] = []
    for table in tables_of(space):
        deep: list[str] = []
        for path, _, _ in diff(base.store, base, present, table.folder, levels=LEVELS, too_deep=deep.append):
            now = _adopt_record(tx, table, base, present, path, room)
            if table is TASK_TABLE:
                tasks.append((_task(base.read(path), path), now if isinstance(now, Task) else None))
            elif table is KEY_TABLE:
                keys.append(path)
        for path in deep:
            tx.event(space, "ignored: too many directories below each other", path=_printable(path[:500]))
    if space == FLEET and (base.head is None or _differs(base, present, *_DERIVED)):
        rebuild.rebuild(tx)
    elif tasks:
        records.reindex(tx, tasks)
    elif space == layout.FILES and _differs(base, present, layout.ARTIFACTS, layout.INDEX):
        artifact_records.rebuild(tx)
    elif namespace_of(space) is not None:
        memory_index.follow(tx, space, base, present, keys)
    if space == FLEET and _differs(base, present, layout.SESSIONS, layout.WORKERS):
        mending.rebuild(tx)
    if space == FLEET and _differs(base, present, layout.SCHEDULES):
        firing.rebuild(tx)


def _differs(base: Snapshot, present: Snapshot, *paths: str) -> bool:
    return any(base.entry(path) != present.entry(path) for path in paths)


def _task(data: bytes | None, path: str) -> Task | None:
    try:
        return TASK_TABLE.decode(data, FLEET, path) if data is not None else None
    except (Corrupt, NewerSchema):
        return None


def _adopt_record(tx: Tx, table: Table[Any], base: Snapshot, present: Snapshot, path: str, room: Room) -> Record | None:
    """Take over what a person made of one record; returns what it is from then on."""
    space = present.space
    data = tx.read(space, path)
    if data is None:
        tx.event(space, "record deleted by hand", path=_printable(path))
        return None
    try:
        record = _sound(table, data, space, path)
    except (Corrupt, NewerSchema) as reason:
        return _set_aside(tx, space, path, data, _last_good(table, base, present, path), reason.message, room)
    tx.event(space, "record edited by hand", path=_printable(path))
    if isinstance(record, MemoryEntry):
        # Whoever compares revisions must see that it is not what they read.
        tx.write(space, path, encode(record.model_copy(update={"revision": tx.revision})))
    return record


def _printable(text: str) -> str:
    """``text`` with the bytes of file names that are no UTF-8 written out."""
    return text.encode(errors="backslashreplace").decode()


def _last_good(table: Table[Any], base: Snapshot, present: Snapshot, path: str) -> tuple[bytes, Record] | None:
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
            return data, _sound(table, data, present.space, path)
        except (Corrupt, NewerSchema):
            continue
    return None


def _sound(table: Table[Any], data: bytes, space: str, path: str) -> Record:
    """The record in ``data``; raises ``Corrupt`` or ``NewerSchema`` for one that cannot be kept."""
    record: Record = table.decode(data, space, path)
    try:
        size = len(encode(record))
    except (TooLarge, ValueError, RecursionError) as error:
        raise Corrupt(f"{space}:{path} cannot be written again: {error}") from None
    if size > MAX_BY_HAND:
        raise Corrupt(f"{space}:{path} has {size} bytes as ghcoord writes it: by hand at most {MAX_BY_HAND}")
    return record


def _set_aside(
    tx: Tx, space: str, path: str, data: bytes, good: tuple[bytes, Record] | None, reason: str, room: Room
) -> Record | None:
    """Move a broken record to ``broken/`` and bring its last good version back, which is returned."""
    if not room.take(len(good[0]) if good is not None else 0):
        tx.event(space, "broken record left in place: too many at once", path=_printable(path))
        return None
    aside = _place_aside(tx, space, _printable(path))
    kept = data[:MAX_ASIDE]
    if not room.take(len(kept)):
        kept = b""
    note = {"path": _printable(path), "reason": _printable(reason), "restored": good is not None}
    if len(kept) < len(data):
        note |= {"kept": len(kept), "bytes": len(data)}
    tx.write(space, aside, kept)
    tx.write(space, aside + NOTE, to_json(note).encode())
    if good is not None:
        tx.write(space, path, good[0])
    else:
        tx.delete(space, path)
    tx.event(space, "broken record set aside", path=_printable(path), reason=_printable(reason[:300]))
    return good[1] if good is not None else None


def _place_aside(tx: Tx, space: str, path: str) -> str:
    """Where in ``broken/`` the record at ``path`` goes: as it lay, or flat where that would be in another's way."""
    aside = f"{layout.BROKEN}/{path}"
    if not path.endswith(NOTE) and _free(tx, space, aside) and _free(tx, space, aside + NOTE):
        return aside
    flat = f"{layout.BROKEN}/{encode_component(path)}.record"
    return flat if _free(tx, space, flat) and _free(tx, space, flat + NOTE) else f"{flat}-{tx.revision}"


def _free(tx: Tx, space: str, path: str) -> bool:
    """Whether a file can be put at ``path``: no directory is there, and no file above it."""
    above = (path[:at] for at, char in enumerate(path) if char == "/")
    return not tx.names(space, path) and all(tx.read(space, one) is None for one in above)


def clear_broken(tx: Tx, space: str) -> list[tuple[str, str]]:
    """Set aside every record of ``space`` that cannot be read where it lies; path and reason of each.

    Of those for which one commit has no room the rest is left for another.
    """
    room = Room()
    found = []
    for table in tables_of(space):
        for path in list(tx.walk(space, table.folder)):
            data = tx.read(space, path) or b""
            try:
                table.decode(data, space, path)
            except (Corrupt, NewerSchema) as reason:
                _set_aside(tx, space, path, data, None, reason.message, room)
                if tx.read(space, path) is None:
                    found.append((_printable(path), _printable(reason.message)))
    return found


def set_aside(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What lies in ``broken/``: path, reason, and whether the version before was restored."""
    found = []
    for path, _ in snapshot.walk(layout.BROKEN):
        if path.endswith(NOTE):
            try:
                note = json.loads(snapshot.read(path) or b"{}")
            except (ValueError, RecursionError):
                continue
            if isinstance(note, dict):
                aside = _printable(path.removesuffix(NOTE))
                told = {key: note[key] for key in ("path", "reason") if isinstance(note.get(key), str)}
                restored = note.get("restored") is True
                found.append({"space": snapshot.space, "aside": aside, **told, "restored": restored})
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
