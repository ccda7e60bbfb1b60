"""Following keys: two states of a namespace are compared, and only what differs is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from threading import get_ident
from typing import Any, NamedTuple

from ghcoord.clock import Event
from ghcoord.coord import layout
from ghcoord.coord.audit.history import History
from ghcoord.coord.context import KEY_TABLE, Context
from ghcoord.coord.layout import KEYS
from ghcoord.coord.memory import index as memory_index
from ghcoord.errors import Corrupt, GhcoordError, NewerSchema
from ghcoord.model.memory import MemoryEntry
from ghcoord.store.base import Oid
from ghcoord.store.heads import revision_of
from ghcoord.store.snapshot import Snapshot, diff

DOUBT = 10.0
"""Seconds after which a state older than the last one is believed; a lagging answer shows one for a moment."""

RESUME_COMMITS = 10_000
"""Commits that are walked at most to where a watch goes on; beyond that it begins anew with ``resync``."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a watch saw: ``kind`` is ``set``, ``deleted``, ``expired``, or ``resync`` when history was cut.

    ``revision`` is that of the value that was set or that ended.
    """

    kind: str
    key: str
    value: Any = None
    revision: int = 0


class Cursor(NamedTuple):
    """Up to where somebody has heard: all that was committed up to ``revision``, and what ended until ``at``.

    ``at`` is in milliseconds since the epoch, by the hub's clock.
    """

    revision: int
    at: int


class Watch:
    """Follows one key, or every key that starts with ``key``, in one namespace.

    ``since`` is the highest revision that was heard, which is told again;
    ``cursor`` goes on right behind where another watch has stopped.
    """

    def __init__(
        self,
        context: Context,
        space: str,
        key: str,
        *,
        prefix: bool,
        since: int | None,
        cursor: Cursor | None = None,
    ) -> None:
        self._context = context
        self._space = space
        self._key = key
        self._prefix = prefix
        self._given = cursor
        self._since = since = since if cursor is None else cursor.revision + 1
        self._doubted_at: float | None = None
        # Ends are looked for from here on. Taken before the state: what ends in between is told.
        self._told = context.now()
        if since is not None:
            self._told = min(self._told, (since if cursor is None else cursor.at) / 1000)
        self._base: Snapshot | None = context.snapshot(space) if since is None else None
        self._before: Snapshot | None = None

    def _matches(self, key: str) -> bool:
        return key.startswith(self._key) if self._prefix else key == self._key

    def follow(self, stopped: Event, on_error: Callable[[GhcoordError], None] | None) -> Iterator[Change]:
        """Changes as they come; errors of the hub go to ``on_error``, or are raised where there is none."""
        while True:
            try:
                changes = self.look()
            except GhcoordError as error:
                if on_error is None:
                    raise
                on_error(error)
                changes = []
            for change in changes:
                if stopped.is_set():
                    return
                yield change
            if stopped.wait(self._context.poll_interval):
                return

    def start(
        self, callback: Callable[[Change], None], on_error: Callable[[GhcoordError], None] | None
    ) -> Callable[[], None]:
        """Follow in a thread; returns what stops it, also from inside ``callback``."""
        stopped = self._context.runtime.event()
        inside: list[int] = []

        def run() -> None:
            inside.append(get_ident())
            for change in self.follow(stopped, on_error or (lambda error: None)):
                callback(change)

        thread = self._context.runtime.spawn(run, "ghcoord-watch")

        def stop() -> None:
            stopped.set()
            if get_ident() not in inside:
                thread.join(timeout=5.0)

        return stop

    @property
    def cursor(self) -> Cursor:
        """What the last look has told: where another watch goes on. Raises ``Corrupt`` when history was replaced."""
        if self._base is None:
            return self._given or Cursor(0, 0)
        return Cursor(revision_of(self._base.store, self._space, self._base.head), int(self._told * 1000))

    def look(self) -> list[Change]:
        """What happened since the last look. An error leaves everything to the next one."""
        now = max(self._told, self._context.now())
        snapshot = self._context.snapshot(self._space)
        if self._since is not None and not self._go_on(snapshot, self._since):
            return []
        snapshot = self._believed(snapshot)
        found = self._compared(snapshot, now)
        if found is None:
            found = self._everything(snapshot, now)
        self._base, self._before, self._since, self._told = snapshot, None, None, now
        return found

    def _go_on(self, snapshot: Snapshot, since: int) -> bool:
        """Look for the state to go on from; ``False`` for as long as ``snapshot`` may be an answer that lags behind."""
        revision = revision_of(snapshot.store, self._space, snapshot.head)
        heard = since if self._given is None else self._given.revision
        if revision < heard and self._doubts():
            return False
        if revision >= since:
            self._base, self._before = _states_at(snapshot, since)
            if self._given is not None:  # whoever has the cursor had just that state, and all of it
                self._base, self._before = self._before or self._base, None
        elif revision + 1 == since:
            self._base = snapshot
        if self._given is None and self._base is not None and self._base.head is not None:
            # Revisions run ahead of the clock while commits come fast: what ended between the two was not told.
            self._told = min(self._told, snapshot.store.commit_info(self._base.head).time)
        return True

    def _believed(self, snapshot: Snapshot) -> Snapshot:
        """``snapshot``, or the last one where this one is older: whoever was told of a change is not told it back."""
        base = self._base
        if base is None or base.head == snapshot.head or not _is_older(snapshot, base):
            self._doubted_at = None
            return snapshot
        return base if self._doubts() else snapshot

    def _doubts(self) -> bool:
        """Whether it is too early to believe that an older state is all there is."""
        now = self._context.runtime.monotonic()
        if self._doubted_at is None:
            self._doubted_at = now
        return now - self._doubted_at < DOUBT

    def _compared(self, snapshot: Snapshot, now: float) -> list[Change] | None:
        """``None`` where the state to compare with is gone."""
        if self._base is None:
            return None
        gone: list[Change] = []
        present: list[MemoryEntry] = []
        try:
            for path, old in sorted(self._differing(self._base, snapshot).items()):
                name = layout.key_of(path)
                if name is not None and not self._matches(name):
                    continue
                before = _decoded(self._space, path, snapshot.store.blob(old)) if old is not None else None
                entry = snapshot.entry(path)
                if entry is None or not entry.is_file:
                    gone += self._ended(before, name, now)
                    continue
                after = _found(snapshot, path)
                if after is not None and self._matches(after.key) and not self._knows(before, after):
                    present.append(after)
        except Corrupt:  # history was squashed or replaced
            return None
        ended = {one.key: one for one in present if one.expired(now)} | self._ending(snapshot, now)
        # Whoever goes on from the revision of one of these has heard all that stands before it.
        present.sort(key=lambda entry: (entry.revision, entry.key))
        sets = [Change("set", entry.key, entry.value, entry.revision) for entry in present]
        return gone + sets + [Change("expired", key, None, entry.revision) for key, entry in sorted(ended.items())]

    def _differing(self, base: Snapshot, snapshot: Snapshot) -> dict[str, Oid | None]:
        """Paths of records that are not as they were, and the record that was there."""
        folder = KEYS if self._prefix else KEY_TABLE.path(self._key)
        found: dict[str, Oid | None] = {}
        if self._before is not None:
            found.update((path, old) for path, old, _ in diff(base.store, self._before, base, folder))
        if base.head != snapshot.head:
            found.update((path, old) for path, old, _ in diff(base.store, base, snapshot, folder))
        return found

    def _ended(self, before: MemoryEntry | None, name: str | None, now: float) -> Iterator[Change]:
        """What a record that is no longer there means; nothing if its end was told before."""
        key = before.key if before is not None else name
        if key is None or not self._matches(key):
            return
        if before is None or not before.expired(now):
            yield Change("deleted", key, None, before.revision if before is not None else 0)
        elif not before.expired(self._told):
            yield Change("expired", key, None, before.revision)

    def _knows(self, before: MemoryEntry | None, after: MemoryEntry) -> bool:
        """Whether whoever goes on from a revision was told of ``after``, whose commit has later ones too."""
        if self._since is None or after.revision >= self._since:
            return False
        return before is None or before.revision < after.revision

    def _ending(self, snapshot: Snapshot, now: float) -> dict[str, MemoryEntry]:
        """Entries whose time has ended since the last look."""
        found: dict[str, MemoryEntry] = {}
        for path in memory_index.due(snapshot.entries, now, self._told):
            entry = _found(snapshot, memory_index.record_of(path))
            if entry is None or not self._matches(entry.key):
                continue
            if entry.expired(now) and not entry.expired(self._told):
                found[entry.key] = entry
        return found

    def _everything(self, snapshot: Snapshot, now: float) -> list[Change]:
        changes = [Change("resync", self._key)]
        for marker in memory_index.markers(snapshot, self._key):
            if self._matches(marker.key):
                entry = _found(snapshot, KEY_TABLE.path(marker.key))
                if entry is not None and not entry.expired(now):
                    changes.append(Change("set", entry.key, entry.value, entry.revision))
        return changes


def _is_older(snapshot: Snapshot, base: Snapshot) -> bool:
    store, space = snapshot.store, snapshot.space
    try:
        return revision_of(store, space, snapshot.head) < revision_of(store, space, base.head)
    except Corrupt:
        return False  # the base is gone: there is nothing to compare with


def _found(snapshot: Snapshot, path: str) -> MemoryEntry | None:
    """The record at ``path``; one that people broke counts as missing: it is about to be set aside."""
    try:
        return KEY_TABLE.find_at(snapshot, path)
    except (Corrupt, NewerSchema):
        return None


def _decoded(space: str, path: str, data: bytes) -> MemoryEntry | None:
    try:
        return KEY_TABLE.decode(data, space, path)
    except (Corrupt, NewerSchema):
        return None


def _states_at(snapshot: Snapshot, revision: int) -> tuple[Snapshot | None, Snapshot | None]:
    """The state in which ``revision`` was committed, and the one before it; ``None`` where history begins later.

    Whoever heard of the revision had at most the keys of the first.  What
    differs from the second is told again, as several keys may have the revision.
    """
    store, space = snapshot.store, snapshot.space
    nothing = Snapshot(store, space, None)
    if snapshot.head is None:
        return nothing, None
    history = History(store, snapshot.head)
    after: Snapshot | None = None
    walked = 0
    for point in islice(history.heads(), RESUME_COMMITS):
        walked += 1
        if point.by_hand:
            continue  # what people did has no revision before it is taken over
        here = Snapshot(store, space, point.info.oid)
        if point.revision < revision:
            return (here, None) if after is None else (after, here)
        after = here
    if history.cut_at is not None or walked == RESUME_COMMITS:
        return None, None
    return after or nothing, nothing
