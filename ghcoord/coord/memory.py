"""Namespaced memory: values by key, compare-and-set, fenced writes, watching."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple, overload
from unicodedata import normalize

from ghcoord.clock import Event
from ghcoord.coord import layout
from ghcoord.coord.context import FENCE_TABLE, KEY_TABLE, LOCK_TABLE, Context
from ghcoord.coord.layout import DEFAULT_NAMESPACE, LOCKS, memory_space
from ghcoord.errors import Corrupt, GhcoordError, NewerSchema, StoreError, SyncError, Unsupported, UsageError
from ghcoord.ids import check_name
from ghcoord.model import memory as model
from ghcoord.model.codec import check_value, stamp
from ghcoord.model.lease import MAX_TTL
from ghcoord.model.memory import Fence, MemoryEntry
from ghcoord.store.heads import revision_of
from ghcoord.store.snapshot import Snapshot, diff
from ghcoord.store.tx import Tx


class FencedBy(NamedTuple):
    """The lock, and the fencing token under which its holder writes."""

    lock: str
    token: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a watch saw: ``kind`` is ``set``, ``deleted``, ``expired``, or ``resync`` when history was cut."""

    kind: str
    key: str
    value: Any = None
    revision: int = 0


class Memory:
    """The memory of a hub. Every method takes a namespace, ``global`` by default."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def set(
        self,
        key: str,
        value: Any,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        if_revision: int | None = None,
        ttl: float | None = None,
        fence: FencedBy | tuple[str, int] | None = None,
    ) -> MemoryEntry:
        """Set ``key`` to any JSON ``value``; returns the entry with its new revision.

        ``if_revision`` makes it a compare-and-set (0: only if the key is not
        set), raising ``RevisionMismatch``.  ``ttl`` in seconds ends the value by
        the hub's clock; such a key is no mutex.  ``fence`` is (lock, token): the
        write happens only while the lock's present grant carries exactly that
        token, else ``FenceRefused``.
        """
        key = check_name(key, "key")
        check_value(value, "value")
        if ttl is not None and not 0 < ttl <= MAX_TTL:
            raise UsageError(f"a ttl of {ttl:g} s is out of range: give more than 0 s, at most 30 days")
        space = memory_space(namespace)

        def run(tx: Tx) -> MemoryEntry:
            self._guard(tx, space, key, if_revision, fence)
            entry = MemoryEntry(
                key=key,
                value=value,
                revision=tx.revision,
                updated_at=stamp(tx.now),
                updated_by=self._context.actor,
                ttl=ttl,
            )
            KEY_TABLE.put(tx, space, key, entry)
            tx.event(space, "memory set", key=key, by=self._context.actor)
            return entry

        return self._context.transact(self._spaces(space, fence), run)

    def delete(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        if_revision: int | None = None,
        fence: FencedBy | tuple[str, int] | None = None,
    ) -> bool:
        """Remove ``key``; ``False`` when it was not set. Conditions as in :meth:`set`."""
        key = check_name(key, "key")
        space = memory_space(namespace)

        def run(tx: Tx) -> bool:
            entry = self._guard(tx, space, key, if_revision, fence)
            if tx.read(space, KEY_TABLE.path(key)) is None:
                return False
            KEY_TABLE.remove(tx, space, key)
            tx.event(space, "memory deleted", key=key, by=self._context.actor)
            return entry is not None

        return self._context.transact(self._spaces(space, fence), run)

    def _spaces(self, space: str, fence: tuple[str, int] | None) -> tuple[str, ...]:
        if fence is None:
            return (space,)
        if not self._context.transactor.store.capabilities.multi_space:
            raise Unsupported("this hub's store cannot commit to two spaces at once: fenced writes need that")
        return (space, LOCKS)

    def _guard(
        self, tx: Tx, space: str, key: str, if_revision: int | None, fence: tuple[str, int] | None
    ) -> MemoryEntry | None:
        """Check every condition of a write; returns the live entry it replaces."""
        if fence is not None:
            name, token = check_name(fence[0], "lock name"), fence[1]
            seen = FENCE_TABLE.get(tx, space, name)
            model.check_fence(LOCK_TABLE.get(tx, LOCKS, name), seen, name, token)
            if seen is None or seen.token != token:
                FENCE_TABLE.put(tx, space, name, Fence(lock=name, token=token))
        try:
            entry = KEY_TABLE.get(tx, space, key)
        except (Corrupt, NewerSchema):
            if if_revision is not None:
                raise
            entry = None  # a plain write repairs what a person broke
        if entry is not None and entry.expired(tx.now):
            entry = None
        model.check_revision(entry, key, if_revision)
        return entry

    # -- reading

    def get(self, key: str, namespace: str = DEFAULT_NAMESPACE, model: Callable[[Any], Any] | None = None) -> Any:
        """The value of ``key``, or ``None``; see :meth:`entry` to tell ``null`` from missing.

        ``model`` turns the value into something typed: a pydantic model class or any callable.
        """
        entry = self.entry(key, namespace)
        if entry is None or model is None:
            return None if entry is None else entry.value
        validate = getattr(model, "model_validate", model)
        try:
            return validate(entry.value)
        except (ValueError, TypeError) as error:
            raise Corrupt(f"the value of {key!r} does not fit {getattr(model, '__name__', model)}: {error}") from error

    def entry(self, key: str, namespace: str = DEFAULT_NAMESPACE) -> MemoryEntry | None:
        """The whole entry of ``key``: value, revision, time, author."""
        check_name(key, "key")
        found = KEY_TABLE.find(self._context.snapshot(memory_space(namespace)), key)
        return None if found is None or found.expired(self._context.now()) else found

    def entries(self, namespace: str = DEFAULT_NAMESPACE, prefix: str = "") -> builtins.list[MemoryEntry]:
        """Entries whose key starts with ``prefix``, sorted by key."""
        now = self._context.now()
        prefix = normalize("NFC", prefix)
        found = KEY_TABLE.scan(self._context.snapshot(memory_space(namespace)))
        kept = [entry for entry in found if entry.key.startswith(prefix) and not entry.expired(now)]
        return sorted(kept, key=lambda entry: entry.key)

    def list(self, namespace: str = DEFAULT_NAMESPACE, prefix: str = "") -> builtins.list[str]:
        """Keys that start with ``prefix``, sorted."""
        return [entry.key for entry in self.entries(namespace, prefix)]

    def namespaces(self) -> builtins.list[str]:
        """Namespaces that hold or held a key, sorted."""
        found = (layout.namespace_of(space) for space in self._context.transactor.store.heads())
        return sorted(name for name in found if name is not None)

    def sync(self, namespace: str | None = None) -> dict[str, int]:
        """Fetch what is new and confirm that what was written has arrived; the revision of each namespace.

        Writes are durable when they return, so nothing lingers here.  Raises ``SyncError``.
        """
        try:
            store = self._context.transactor.store
            heads = store.heads()
            names = self.namespaces() if namespace is None else [namespace]
            spaces = {name: memory_space(name) for name in names}
            return {name: revision_of(store, space, heads.get(space)) for name, space in spaces.items()}
        except StoreError as error:
            raise SyncError(f"cannot synchronise {namespace or 'the memory'}: {error}", namespace or "") from error

    # -- watching

    @overload
    def watch(
        self,
        key: str,
        callback: Callable[[Change], None],
        namespace: str = ...,
        *,
        prefix: bool = ...,
        on_error: Callable[[GhcoordError], None] | None = ...,
    ) -> Callable[[], None]: ...

    @overload
    def watch(
        self, key: str, callback: None = None, namespace: str = ..., *, prefix: bool = ...
    ) -> Iterator[Change]: ...

    def watch(
        self,
        key: str,
        callback: Callable[[Change], None] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        prefix: bool = False,
        on_error: Callable[[GhcoordError], None] | None = None,
    ) -> Callable[[], None] | Iterator[Change]:
        """Changes of ``key`` (or, with ``prefix``, of every key that starts with it) from now on.

        With a ``callback``, it is called from a thread and a function that
        stops the watch is returned; errors of the hub go to ``on_error`` and
        the watch goes on.  Without one, an iterator.  Values set in quick
        succession may be seen as one change; the last one is never missed.
        """
        key = normalize("NFC", key) if prefix else check_name(key, "key")
        space = memory_space(namespace)
        # What is there when watch() returns is the base: a change made right after is seen.
        watch = _Watch(self._context, space, key, prefix, self._context.snapshot(space))
        stopped = self._context.runtime.event()
        inside: builtins.list[int] = []
        if callback is None:
            return watch.follow(stopped, None)

        def run() -> None:
            inside.append(get_ident())
            for change in watch.follow(stopped, on_error or (lambda error: None)):
                callback(change)

        thread = self._context.runtime.spawn(run, "ghcoord-watch")

        def stop() -> None:
            stopped.set()
            if get_ident() not in inside:
                thread.join(timeout=5.0)

        return stop


class _Watch:
    """Follows one namespace by comparing trees."""

    def __init__(self, context: Context, space: str, key: str, prefix: bool, base: Snapshot) -> None:
        self._context = context
        self._space = space
        self._key = key
        self._prefix = prefix
        self._base = base
        self._alive: dict[str, MemoryEntry] = {}
        self._note_present(KEY_TABLE.scan(base) if prefix else filter(None, [self._find(base)]))

    def _find(self, snapshot: Snapshot) -> MemoryEntry | None:
        try:
            return KEY_TABLE.find(snapshot, self._key)
        except (Corrupt, NewerSchema):
            return None

    def _matches(self, key: str) -> bool:
        return key.startswith(self._key) if self._prefix else key == self._key

    def _note_present(self, entries: Iterable[MemoryEntry]) -> None:
        now = self._context.now()
        self._alive = {entry.key: entry for entry in entries if self._matches(entry.key) and not entry.expired(now)}

    def follow(self, stopped: Event, on_error: Callable[[GhcoordError], None] | None) -> Iterator[Change]:
        while True:
            before = self._base, dict(self._alive)
            try:
                changes = list(self._changes())
            except GhcoordError as error:
                self._base, self._alive = before  # what was found up to here is found again
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

    def _changes(self) -> Iterator[Change]:
        snapshot = self._context.snapshot(self._space)
        if snapshot.head != self._base.head:
            yield from self._compare(snapshot)
            self._base = snapshot
        now = self._context.now()
        for key, entry in sorted(self._alive.items()):
            if entry.expired(now):
                del self._alive[key]
                yield Change("expired", key, None, entry.revision)

    def _compare(self, snapshot: Snapshot) -> Iterator[Change]:
        store = self._context.transactor.store
        try:
            folder = layout.KEYS if self._prefix else KEY_TABLE.path(self._key)
            differing = list(diff(store, self._base, snapshot, folder))
        except Corrupt:  # the base is gone: history was squashed or replaced
            yield from self._resync(snapshot)
            return
        for path, _, new in differing:
            entry = None
            if new is not None:
                try:
                    entry = KEY_TABLE.find_at(snapshot, path)
                except (Corrupt, NewerSchema):
                    continue
            if entry is None:
                gone = [key for key in self._alive if KEY_TABLE.path(key) == path]
                for key in gone:
                    yield Change("deleted", key, None, self._alive.pop(key).revision)
            elif self._matches(entry.key):
                self._alive[entry.key] = entry  # also one that is over already: then it expires next
                yield Change("set", entry.key, entry.value, entry.revision)

    def _resync(self, snapshot: Snapshot) -> Iterator[Change]:
        yield Change("resync", self._key)
        self._note_present(KEY_TABLE.scan(snapshot))
        for key, entry in sorted(self._alive.items()):
            yield Change("set", key, entry.value, entry.revision)
