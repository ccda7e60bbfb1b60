"""What a key was set to, and by whom: found in the commits of its namespace.

Only the ids of the trees on the way to the record are compared; a record is
read where it differs.  Of several changes that went into one commit the last is
seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ghcoord.coord.audit.history import History, Point
from ghcoord.coord.context import KEY_TABLE
from ghcoord.coord.layout import namespace_of
from ghcoord.errors import Corrupt, NewerSchema, NotFound, UsageError
from ghcoord.model.codec import stamp
from ghcoord.model.memory import MemoryEntry
from ghcoord.store.base import Oid, Store
from ghcoord.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class MemoryVersion:
    """What became of a key: ``kind`` is ``set``, ``deleted`` or ``expired``.

    ``at`` and ``by`` are the record's; for the others when and by whom it was
    committed, for ``expired`` when its time was over, by nobody.  ``commit`` is
    where it appeared; ``ttl`` is in seconds.  An edit by hand has the revision
    under which it was taken over, 0 until then.
    """

    revision: int
    at: datetime
    by: str
    kind: str
    value: Any
    commit: Oid
    ttl: float | None = None

    @property
    def deleted(self) -> bool:
        """Whether the key was not set from then on."""
        return self.kind != "set"


class _State(NamedTuple):
    """The record at one commit: its blob (``None`` where there is none), and what can be read of it."""

    point: Point
    blob: Oid | None
    entry: MemoryEntry | None


class _Walk:
    """The states of one path, newest commit first; reads the record only where it differs from the one before."""

    def __init__(self, snapshot: Snapshot, key: str) -> None:
        self._store: Store = snapshot.store
        self._space = snapshot.space
        self._path = KEY_TABLE.path(key)
        self._last: tuple[Oid | None, MemoryEntry | None] = (None, None)
        self._trail: list[Oid | None] = []
        self.history = History(snapshot.store, snapshot.head) if snapshot.head is not None else None

    def states(self) -> Iterator[_State]:
        for point in self.history.heads() if self.history is not None else ():
            try:
                blob = self._blob(point.info.tree)
                if blob != self._last[0]:
                    self._last = (blob, self._read(blob))
            except Corrupt:
                return  # history ends where it was cut
            yield _State(point, *self._last)

    @property
    def cut(self) -> bool:
        """Whether older commits were removed; known once the walk has ended."""
        return self.history is not None and self.history.cut_at is not None

    def _blob(self, tree: Oid) -> Oid | None:
        """The id of the record below ``tree``; trees that are the same as at the last commit are not read again."""
        trail: list[Oid | None] = [tree]
        for level, name in enumerate(self._path.split("/")):
            if self._trail and trail[level] == self._trail[level]:
                trail = self._trail
                break
            above = trail[level]
            entry = self._store.tree(above).get(name) if above is not None else None
            leaf = level == self._path.count("/")
            fits = entry is not None and (entry.is_file if leaf else entry.is_tree)
            trail.append(entry.oid if entry is not None and fits else None)
        self._trail = trail
        return trail[-1]

    def _read(self, blob: Oid | None) -> MemoryEntry | None:
        data = self._store.blob(blob) if blob is not None else None
        try:
            return KEY_TABLE.decode(data, self._space, self._path) if data is not None else None
        except (Corrupt, NewerSchema):
            return None


def versions(snapshot: Snapshot, key: str, since: int = 0) -> Iterator[MemoryVersion]:
    """What became of ``key``, newest first, from the revision ``since`` on, as far as the history is kept."""
    # What a person broke in between is set aside: the version before it went on.
    states = (one for one in _Walk(snapshot, key).states() if one.blob is None or one.entry is not None)
    newer = next(states, None)
    above = 0  # the revision that an edit by hand got when it was taken over
    while newer is not None:
        older = next(states, None)
        if not newer.point.by_hand:
            above = newer.point.revision
        if newer.blob != (older.blob if older is not None else None):
            if _restamped(newer, older) and newer.entry is not None:
                above = newer.entry.revision
            else:
                found = _version(newer, older, above)
                if 0 < found.revision < since:
                    return
                yield found
        if older is not None and not older.point.by_hand and older.point.revision < since:
            return
        newer = older


def _restamped(newer: _State, older: _State | None) -> bool:
    """Whether ``newer`` is a person's edit with the revision that ghcoord gave it, and nothing else."""
    if older is None or newer.entry is None or older.entry is None or not older.point.by_hand or newer.point.by_hand:
        return False
    return newer.entry.model_copy(update={"revision": older.entry.revision}) == older.entry


def _version(state: _State, older: _State | None, above: int) -> MemoryVersion:
    """What happened between two commits whose records differ."""
    point, entry = state.point, state.entry
    before = older.entry if older is not None else None
    if entry is not None and point.by_hand:
        by = point.info.author
        return MemoryVersion(above, stamp(point.at), by, "set", entry.value, point.info.oid, entry.ttl)
    if entry is not None:
        by = entry.updated_by
        return MemoryVersion(entry.revision, entry.updated_at, by, "set", entry.value, point.info.oid, entry.ttl)
    if before is not None and before.expires_at is not None and before.expired(point.at):
        return MemoryVersion(above, before.expires_at, "", "expired", None, point.info.oid)
    return MemoryVersion(above, stamp(point.at), point.info.author, "deleted", None, point.info.oid)


def as_of(snapshot: Snapshot, key: str, revision: int) -> MemoryEntry:
    """The entry of ``key`` as it was at ``revision``.

    Raises ``NotFound`` where it was not set then, or where the history does
    not go back that far, and ``UsageError`` for a revision yet to come.
    """
    namespace = namespace_of(snapshot.space)
    unset = NotFound(f"the key {key!r} was not set in the namespace {namespace!r} at revision {revision}")
    walk = _Walk(snapshot, key)
    newest: Point | None = None
    oldest: Point | None = None
    for state in walk.states():
        newest, oldest = newest or state.point, state.point
        if revision > newest.revision:
            raise UsageError(f"the namespace {namespace!r} has no revision {revision} yet: it is at {newest.revision}")
        if state.point.by_hand:
            continue  # it has no revision before it is taken over
        if state.entry is not None and state.entry.revision <= revision:
            # Unchanged from its own revision to this commit's: also for revisions within a commit of several.
            if state.entry.expired(revision / 1000):
                raise NotFound(f"the value of {key!r} had ended before revision {revision}: its ttl was over")
            return state.entry
        if state.point.revision <= revision:
            raise unset
    if walk.cut and oldest is not None:
        raise NotFound(
            f"the history of the namespace {namespace!r} goes back to revision {oldest.revision}: "
            f"what {key!r} was at {revision} is no longer kept"
        )
    raise unset
