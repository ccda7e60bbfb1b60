"""Namespaced memory: values by key, compare-and-set, fenced writes, atomic changes of many keys, history, watching."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar, overload
from unicodedata import normalize

from ghcoord.coord.context import KEY_TABLE, Context
from ghcoord.coord.layout import DEFAULT_NAMESPACE, LOCKS, memory_space
from ghcoord.coord.memory import history as memory_history
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.memory import namespaces as memory_namespaces
from ghcoord.coord.memory import transfer as memory_transfer
from ghcoord.coord.memory import write as memory_write
from ghcoord.coord.memory.history import MemoryVersion
from ghcoord.coord.memory.namespaces import NamespaceUsage
from ghcoord.coord.memory.transfer import Imported
from ghcoord.coord.memory.watch import Change, Cursor, Watch
from ghcoord.coord.memory.write import CheckKey, DeleteKey, FencedBy, Op, Result, SetKey
from ghcoord.errors import Corrupt, GhcoordError, NewerSchema, NotFound, Unsupported, UsageError
from ghcoord.ids import check_name
from ghcoord.model.memory import MemoryEntry
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

__all__ = [
    "Change",
    "CheckKey",
    "Cursor",
    "DeleteKey",
    "FencedBy",
    "Imported",
    "Memory",
    "MemoryVersion",
    "NamespaceUsage",
    "SetKey",
]

T = TypeVar("T")


class Memory:
    """The memory of a hub. Every method takes a namespace, ``global`` by default."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # -- writing

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
        (entry,) = self.apply([SetKey(key, value, namespace, if_revision, ttl)], fence=fence)
        assert isinstance(entry, MemoryEntry)
        return entry

    def delete(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        if_revision: int | None = None,
        fence: FencedBy | tuple[str, int] | None = None,
    ) -> bool:
        """Remove ``key``; ``False`` when it was not set. Conditions as in :meth:`set`."""
        (deleted,) = self.apply([DeleteKey(key, namespace, if_revision)], fence=fence)
        return bool(deleted)

    def set_many(
        self,
        values: Mapping[str, Any],
        namespace: str = DEFAULT_NAMESPACE,
        *,
        if_revisions: Mapping[str, int] | None = None,
        ttl: float | None = None,
        fence: FencedBy | tuple[str, int] | None = None,
    ) -> dict[str, MemoryEntry]:
        """Set all of ``values`` in one commit, or none of them; the entries by key.

        ``if_revisions`` holds conditions by key, also for keys that are only
        compared.  Raises ``TooLarge`` for what does not fit into one commit.
        """
        conditions = dict(if_revisions or {})
        ops: builtins.list[Op] = [
            SetKey(key, value, namespace, conditions.pop(key, None), ttl) for key, value in values.items()
        ]
        ops += [CheckKey(key, revision, namespace) for key, revision in conditions.items()]
        done = self.apply(ops, fence=fence)
        return {key: entry for key, entry in zip(values, done, strict=False) if isinstance(entry, MemoryEntry)}

    def delete_many(
        self,
        keys: Iterable[str],
        namespace: str = DEFAULT_NAMESPACE,
        *,
        if_revisions: Mapping[str, int] | None = None,
        fence: FencedBy | tuple[str, int] | None = None,
    ) -> builtins.list[str]:
        """Remove ``keys`` in one commit; those that were set. Conditions as in :meth:`set_many`."""
        named = builtins.list(keys)
        conditions = dict(if_revisions or {})
        ops: builtins.list[Op] = [DeleteKey(key, namespace, conditions.pop(key, None)) for key in named]
        ops += [CheckKey(key, revision, namespace) for key, revision in conditions.items()]
        done = self.apply(ops, fence=fence)
        return [key for key, deleted in zip(named, done, strict=False) if deleted is True]

    def apply(self, ops: Iterable[Op], *, fence: FencedBy | tuple[str, int] | None = None) -> builtins.list[Result]:
        """Carry out all of ``ops`` in one commit, or none: ``SetKey``, ``DeleteKey`` and ``CheckKey``, any namespaces.

        Every condition is judged on the state before; each key may be there
        once.  Returns for each of ``ops`` the new entry, whether the key was
        set, or the entry that was checked.  Raises ``RevisionMismatch``,
        ``FenceRefused``, ``TooLarge``, and ``Unsupported`` for several
        namespaces where the store commits to one space at a time; there the
        lock of a fence must have been taken for the namespace (``guards``).
        """
        checked = memory_write.checked(ops)
        if not checked:
            return []
        spaces = memory_write.spaces_of(checked)
        guard = None if fence is None else (check_name(fence[0], "lock name"), fence[1])
        several = self._context.transactor.store.capabilities.multi_space
        if len(spaces) > 1 and not several:
            raise Unsupported(
                "this hub's server commits to one space at a time: change one namespace after the other, or open the "
                "hub over 'git push' or with GraphQL"
            )
        if guard is not None and several:
            spaces = (*spaces, LOCKS)
        actor, quota = self._context.actor, self._quota()

        def run(tx: Tx) -> builtins.list[Result]:
            return memory_write.apply(tx, checked, fence=guard, actor=actor, quota=quota)

        return self._context.transact(spaces, run)

    def _quota(self) -> int | None:
        return self._context.config().quota_memory_keys

    # -- reading

    @overload
    def get(self, key: str, namespace: str = ..., model: None = None, *, revision: int | None = ...) -> Any: ...

    @overload
    def get(
        self, key: str, namespace: str, model: type[T] | Callable[[Any], T], *, revision: int | None = ...
    ) -> T | None: ...

    @overload
    def get(
        self, key: str, namespace: str = ..., *, model: type[T] | Callable[[Any], T], revision: int | None = ...
    ) -> T | None: ...

    def get(
        self,
        key: str,
        namespace: str = DEFAULT_NAMESPACE,
        model: type[T] | Callable[[Any], T] | None = None,
        *,
        revision: int | None = None,
    ) -> Any:
        """The value of ``key``, or ``None``; see :meth:`entry` to tell ``null`` from missing.

        ``model`` turns the value into something typed: a pydantic model class or any callable.
        ``revision`` asks for the value as it was then, and raises ``NotFound``
        where the key was not set, or that part of the history is no longer kept.
        """
        entry = self.entry(key, namespace, revision=revision)
        return None if entry is None else _typed(entry, model)

    def entry(self, key: str, namespace: str = DEFAULT_NAMESPACE, *, revision: int | None = None) -> MemoryEntry | None:
        """The whole entry of ``key``: value, revision, time, author. ``revision`` as in :meth:`get`."""
        key = check_name(key, "key")
        snapshot = self._snapshot(namespace)
        if revision is not None:
            return memory_history.as_of(snapshot, key, revision)
        found = KEY_TABLE.find(snapshot, key)
        return None if found is None or found.expired(self._context.now()) else found

    def entries(
        self,
        namespace: str = DEFAULT_NAMESPACE,
        prefix: str = "",
        *,
        limit: int | None = None,
        after: str | None = None,
        model: Callable[[Any], Any] | None = None,
    ) -> builtins.list[MemoryEntry]:
        """Entries whose key starts with ``prefix``, sorted by key; with ``model`` their values are typed.

        ``limit`` and ``after``, the last key of the page before, give pages.
        """
        snapshot = self._snapshot(namespace)
        found = (self._readable(snapshot, key) for key in self._keys(snapshot, prefix, after))
        page = islice((entry for entry in found if entry is not None), _limit(limit))
        if model is None:
            return builtins.list(page)
        return [entry.model_copy(update={"value": _typed(entry, model)}) for entry in page]

    def list(
        self,
        namespace: str = DEFAULT_NAMESPACE,
        prefix: str = "",
        *,
        limit: int | None = None,
        after: str | None = None,
    ) -> builtins.list[str]:
        """Keys that start with ``prefix``, sorted; pages as in :meth:`entries`. Costs what it returns."""
        return builtins.list(islice(self._keys(self._snapshot(namespace), prefix, after), _limit(limit)))

    def _snapshot(self, namespace: str) -> Snapshot:
        return self._context.snapshot(memory_space(namespace))

    def _keys(self, snapshot: Snapshot, prefix: str, after: str | None) -> Iterator[str]:
        now = self._context.now()
        behind = None if after is None else normalize("NFC", after)
        for marker in memory_index.markers(snapshot, normalize("NFC", prefix), behind):
            if marker.ends is None or now < marker.ends.timestamp():
                yield marker.key

    def _readable(self, snapshot: Snapshot, key: str) -> MemoryEntry | None:
        try:
            entry = KEY_TABLE.find(snapshot, key)
        except (Corrupt, NewerSchema):
            return None
        return None if entry is None or entry.expired(self._context.now()) else entry

    def history(
        self, key: str, namespace: str = DEFAULT_NAMESPACE, *, limit: int | None = 20, since: int = 0
    ) -> builtins.list[MemoryVersion]:
        """What ``key`` was set to and when it was deleted, newest first, as far as the hub's history is kept.

        At most ``limit`` versions, from the revision ``since`` on.  Of several
        changes in one commit the last is seen.
        """
        found = memory_history.versions(self._snapshot(namespace), check_name(key, "key"), since)
        return builtins.list(islice(found, _limit(limit)))

    # -- namespaces

    def namespaces(self) -> builtins.list[str]:
        """Namespaces that hold a key, sorted."""
        return [one.namespace for one in self.usage()]

    def usage(self) -> builtins.list[NamespaceUsage]:
        """What each namespace holds that has a key, sorted by name. Costs the same however many keys there are."""
        return builtins.list(memory_namespaces.usage(self._context))

    def drop_namespace(self, namespace: str) -> int:
        """Remove every key that ``namespace`` has now; returns how many there were.

        Goes in pages of one commit each; keys set meanwhile stay.  Its branch
        and the fencing tokens seen there stay too, so that no late writer gets by.
        """
        return memory_namespaces.drop(self._context, namespace)

    def sweep(self, namespace: str | None = None) -> int:
        """Remove values whose time is over, of one namespace or of all; returns how many.

        Every write to a namespace removes a few; nothing depends on it.
        """
        names = memory_namespaces.names(self._context) if namespace is None else [namespace]
        return sum(memory_namespaces.sweep(self._context, name) for name in names)

    def sync(self, namespace: str | None = None) -> dict[str, int]:
        """Fetch what is new and confirm that what was written has arrived; the revision of each namespace.

        Writes are durable when they return, so nothing lingers here.  Raises ``SyncError``.
        """
        return memory_namespaces.sync(self._context, namespace)

    # -- out and in

    def export(self, namespaces: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        """Every key of ``namespaces`` (default: all) as of one moment, as :meth:`bring_in` takes them.

        Raises ``NotFound`` for a namespace without a key.
        """
        present = self.namespaces()
        for name in namespaces if namespaces is not None else ():
            if name not in present:
                raise NotFound(f"the namespace {name!r} has no keys")
        return memory_transfer.export(self._context, present if namespaces is None else namespaces)

    def bring_in(
        self,
        lines: Iterable[Mapping[str, Any] | SetKey],
        *,
        existing: str = "refuse",
        dry_run: bool = False,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Imported:
        """Set the keys of ``lines``, dictionaries as :meth:`export` gives them, in batches of one commit each.

        What has the same value already is left alone, so doing it twice, or
        again after an interruption, is harmless.  A key with another value is
        kept (``existing="skip"``), set anew (``"overwrite"``), or stops the
        import before anything is written (``"refuse"``: ``RevisionMismatch``).
        ``dry_run`` only counts.  ``progress`` hears the number of lines done.
        """
        return memory_transfer.bring_in(self._context, lines, existing, dry_run, progress, self._quota())

    @staticmethod
    def parse_line(line: Mapping[str, Any]) -> SetKey:
        """A line of an export as the change that it stands for; raises ``UsageError`` saying what is wrong with it."""
        return memory_transfer.parse(line)

    # -- watching

    @overload
    def watch(
        self,
        key: str,
        callback: Callable[[Change], None],
        namespace: str = ...,
        *,
        prefix: bool = ...,
        since: int | None = ...,
        on_error: Callable[[GhcoordError], None] | None = ...,
    ) -> Callable[[], None]: ...

    @overload
    def watch(
        self, key: str, callback: None = None, namespace: str = ..., *, prefix: bool = ..., since: int | None = ...
    ) -> Iterator[Change]: ...

    def watch(
        self,
        key: str,
        callback: Callable[[Change], None] | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        prefix: bool = False,
        since: int | None = None,
        on_error: Callable[[GhcoordError], None] | None = None,
    ) -> Callable[[], None] | Iterator[Change]:
        """Changes of ``key`` (or, with ``prefix``, of every key that starts with it) from now on.

        With a ``callback``, it is called from a thread and a function that
        stops the watch is returned; errors of the hub go to ``on_error`` and
        the watch goes on.  Without one, an iterator.  Values set in quick
        succession may be seen as one change; the last one is never missed.

        ``since`` goes on from a revision, the highest that was heard, and it is
        told again: several keys may have it.  Where the history does not go
        back that far, or was replaced, ``resync`` comes, and then every key.
        """
        key = normalize("NFC", key) if prefix else check_name(key, "key")
        # What is there when watch() returns is the base: a change made right after is seen.
        watch = Watch(self._context, memory_space(namespace), key, prefix=prefix, since=since)
        if callback is None:
            return watch.follow(self._context.runtime.event(), None)
        return watch.start(callback, on_error)

    def changes(
        self, key: str, namespace: str = DEFAULT_NAMESPACE, *, prefix: bool = False, since: Cursor | None = None
    ) -> Watch:
        """A watch for who looks now and then: ``.look()`` has what is new, ``.cursor`` is where another goes on."""
        key = normalize("NFC", key) if prefix else check_name(key, "key")
        return Watch(self._context, memory_space(namespace), key, prefix=prefix, since=None, cursor=since)


def _typed(entry: MemoryEntry, model: Callable[[Any], Any] | None) -> Any:
    if model is None:
        return entry.value
    validate = getattr(model, "model_validate", model)
    try:
        return validate(entry.value)
    except (ValueError, TypeError) as error:
        name = getattr(model, "__name__", model)
        raise Corrupt(f"the value of {entry.key!r} does not fit {name}: {error}") from error


def _limit(limit: int | None) -> int | None:
    if limit is not None and limit < 0:
        raise UsageError(f"a limit of {limit} is out of range: give 0 or more")
    return limit
