"""Whole namespaces: what they hold, removing what has ended, and ending one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from ghcoord.coord import layout
from ghcoord.coord.context import Context
from ghcoord.coord.layout import memory_space
from ghcoord.coord.memory import index as memory_index
from ghcoord.coord.memory import write as memory_write
from ghcoord.errors import StoreError, SyncError
from ghcoord.model.codec import stamp
from ghcoord.store.heads import revision_of
from ghcoord.store.snapshot import Snapshot
from ghcoord.store.tx import Tx

PAGE = 500
"""Keys that one commit of a sweep, or of the end of a namespace, removes at most."""


class NamespaceUsage(NamedTuple):
    """What a namespace holds: keys and bytes of their records, with ended values that nobody has removed yet."""

    namespace: str
    keys: int
    bytes: int
    revision: int
    updated_at: datetime


def names(context: Context) -> list[str]:
    """Namespaces that hold or held a key, sorted."""
    found = map(layout.namespace_of, context.transactor.store.heads())
    return sorted(name for name in found if name is not None)


def usage(context: Context) -> Iterator[NamespaceUsage]:
    """What each namespace holds that has a key, in the order of their names. Reads one small record of each."""
    store = context.transactor.store
    heads = store.heads()
    for space in sorted(heads, key=lambda space: layout.namespace_of(space) or ""):
        name = layout.namespace_of(space)
        if name is None:
            continue
        counts = memory_index.counted(Snapshot(store, space, heads[space]))
        if counts.keys:
            revision = revision_of(store, space, heads[space])
            yield NamespaceUsage(name, counts.keys, counts.bytes, revision, stamp(revision / 1000))


def drop(context: Context, namespace: str) -> int:
    """Remove every key that is there now, page by page; returns how many were set."""
    space = memory_space(namespace)
    found = (marker.key for marker in memory_index.markers(context.snapshot(space)))
    dropped = 0
    newest: int | None = None
    while page := list(islice(found, PAGE)):

        def run(tx: Tx, page: list[str] = page, newest: int | None = newest) -> tuple[int, int]:
            bound = newest or tx.revision
            return memory_write.drop(tx, space, page, bound, context.actor), bound

        count, newest = context.transact((space,), run)
        dropped += count
    return dropped


def sweep(context: Context, namespace: str) -> int:
    """Remove the values whose time is over, page by page; returns how many."""
    space = memory_space(namespace)

    def run(tx: Tx) -> int:
        memory_index.ensure(tx, space)
        return memory_write.sweep(tx, space, PAGE)

    swept = 0
    while True:
        count = context.transact((space,), run)
        swept += count
        if count < PAGE:
            return swept


def sync(context: Context, namespace: str | None) -> dict[str, int]:
    """The revision of each namespace, or of one; raises ``SyncError``."""
    try:
        store = context.transactor.store
        heads = store.heads()
        spaces = {name: memory_space(name) for name in (names(context) if namespace is None else [namespace])}
        return {name: revision_of(store, space, heads.get(space)) for name, space in spaces.items()}
    except StoreError as error:
        raise SyncError(f"cannot synchronise {namespace or 'the memory'}: {error}", namespace or "") from error
