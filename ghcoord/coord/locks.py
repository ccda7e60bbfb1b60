"""Locks: exclusive, leased, fenced."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any
from unicodedata import normalize

from ghcoord.coord.context import LOCK_TABLE, Context
from ghcoord.coord.keepalive import HeldLock
from ghcoord.coord.layout import LOCKS
from ghcoord.errors import NotFound, WaitTimeout
from ghcoord.ids import check_name
from ghcoord.model import lock as model
from ghcoord.model.codec import check_value
from ghcoord.model.lease import Judge, check_ttl
from ghcoord.model.lock import Lock, lock_key
from ghcoord.store.tx import Tx

DEFAULT_TTL = 300.0
"""Seconds a lock is held without renewal (reference: ``locking.ttlSeconds``)."""


class Locks:
    """The locks of a hub."""

    def __init__(self, context: Context, *, ttl: float = DEFAULT_TTL, identity: Callable[[], dict[str, Any]]) -> None:
        self._context = context
        self._ttl = ttl
        self._identity = identity

    def acquire(
        self,
        name: str,
        owner: str | None = None,
        *,
        ttl: float | None = None,
        wait: float = 0.0,
        metadata: dict[str, Any] | None = None,
    ) -> Lock | None:
        """Take the lock ``name``, or return ``None`` when someone holds it.

        ``owner`` defaults to this hub's actor; an owner who already holds the
        lock gets ``None`` too.  ``ttl`` in seconds; ``wait`` is how many seconds
        to keep trying.  ``metadata`` is any JSON object; host name and pid are
        filled in.  The lock's ``token`` is the fencing token.
        """
        granted = self._acquire_sent(name, owner, ttl=ttl, wait=wait, metadata=metadata)
        return granted[0] if granted is not None else None

    def _acquire_sent(
        self, name: str, owner: str | None, *, ttl: float | None, wait: float, metadata: dict[str, Any] | None
    ) -> tuple[Lock, float] | None:
        """As :meth:`acquire`, with the monotonic time before the request that got the lock."""
        context = self._context
        name = check_name(name, "lock name")
        owner = check_name(owner or context.actor, "owner")
        seconds = check_ttl(self._ttl if ttl is None else ttl)
        details = {**self._identity(), **check_value(dict(metadata or {}), "metadata")}

        def attempt() -> tuple[Lock, float] | None:
            judge = self._waiting_judge(name) if wait else context.judge()
            sent = context.runtime.monotonic()
            lock = context.transact((LOCKS,), lambda tx: _acquire(tx, name, owner, seconds, details, judge))
            return None if lock is None else (lock, sent)

        if wait <= 0:
            return attempt()
        try:
            interval = min(context.poll_interval, 0.2) if context.poll_interval <= 1 else context.poll_interval
            return context.poll(attempt, wait, f"the lock {name!r} was not free", interval)
        except WaitTimeout:
            return None

    def _waiting_judge(self, name: str) -> Judge:
        """Who waits observes too: where the hub has no clock, nothing else can end a dead holder's lease."""
        context = self._context
        present = LOCK_TABLE.find(context.snapshot(LOCKS), name)
        if present is not None:
            context.observer.look([(lock_key(name), present.lease)])
        by_clock, by_watching = context.judge(), context.observer.judge()
        return lambda key, lease, now: by_clock(key, lease, now) or by_watching(key, lease, now)

    def hold(
        self,
        name: str,
        owner: str | None = None,
        *,
        ttl: float | None = None,
        wait: float = 0.0,
        metadata: dict[str, Any] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> HeldLock:
        """A context manager that holds the lock: renews in the background, releases at the end.

        ``on_lost`` is called from the renewing thread as soon as the lease
        counts as lost, before anybody else can get the lock.  Entering raises
        ``LockHeld`` when the lock is not to be had within ``wait`` seconds;
        leaving raises ``LeaseLost`` when it was lost on the way.
        """
        name = check_name(name, "lock name")
        owner = check_name(owner or self._context.actor, "owner")
        return HeldLock(
            self,
            self._context.runtime,
            name,
            owner,
            acquire=lambda: self._acquire_sent(name, owner, ttl=ttl, wait=wait, metadata=metadata),
            on_lost=on_lost,
        )

    def renew(self, name: str, owner: str, token: int | None = None, *, ttl: float | None = None) -> Lock:
        """Begin the lease anew, optionally with another ttl (seconds).

        Raises ``LeaseLost`` when ``token`` is no longer the grant's, ``NotOwner``, ``NotFound``.
        """
        name, owner = check_name(name, "lock name"), check_name(owner, "owner")
        if ttl is not None:
            check_ttl(ttl)

        def run(tx: Tx) -> Lock:
            held = LOCK_TABLE.get(tx, LOCKS, name)
            lock = model.renew(held, name, owner, token, ttl, now=tx.now, revision=tx.revision)
            LOCK_TABLE.put(tx, LOCKS, name, lock)
            return lock

        return self._context.transact((LOCKS,), run)

    def release(self, name: str, owner: str, token: int | None = None) -> None:
        """Give the lock up. Raises ``NotOwner``, ``NotFound``, or ``LeaseLost`` when ``token`` is outdated."""
        name, owner = check_name(name, "lock name"), check_name(owner, "owner")

        def run(tx: Tx) -> None:
            lock = model.release(LOCK_TABLE.get(tx, LOCKS, name), name, owner, token)
            _drop(tx, lock, "lock released")

        self._context.transact((LOCKS,), run)

    def release_all(self, owner: str) -> int:
        """Release every lock of ``owner``; returns how many there were."""
        owner = check_name(owner, "owner")
        return self._context.transact((LOCKS,), lambda tx: release_all_of(tx, owner, "lock released"))

    def force_unlock(self, name: str) -> Lock:
        """End a grant whoever holds it; returns it. Its holder's fenced writes are refused from then on."""

        def run(tx: Tx) -> Lock:
            lock = LOCK_TABLE.get(tx, LOCKS, name)
            if lock is None:
                raise NotFound(f"the lock {name!r} is not held by anyone")
            _drop(tx, lock, "lock forced")
            return lock

        return self._context.transact((LOCKS,), run)

    def clean(self) -> int:
        """Remove the locks whose lease has expired by the hub's clock and a margin; returns how many."""
        return self._clean(self._context.judge())

    def tend(self) -> int:
        """Remove the locks that this process has watched stand still for ttl and margin: what each daemon does.

        Goes by its own observation, not by clocks.  Returns how many were removed.
        """
        context = self._context
        found = list(LOCK_TABLE.scan(context.snapshot(LOCKS)))
        context.observer.look([(lock_key(lock.name), lock.lease) for lock in found], complete=lock_key(""))
        judge, now = context.observer.judge(), context.now()
        if not any(judge(lock_key(lock.name), lock.lease, now) for lock in found):
            return 0
        return self._clean(judge)

    def _clean(self, judge: Judge) -> int:
        def run(tx: Tx) -> int:
            stale = [lock for lock in LOCK_TABLE.all(tx, LOCKS) if judge(lock_key(lock.name), lock.lease, tx.now)]
            for lock in stale:
                _drop(tx, lock, "lock expired")
            return len(stale)

        return self._context.transact((LOCKS,), run)

    def get(self, name: str) -> Lock | None:
        """The lock if it is held and its lease runs."""
        lock = LOCK_TABLE.find(self._context.snapshot(LOCKS), name)
        return lock if lock is not None and not self.is_expired(lock) else None

    def is_locked(self, name: str) -> bool:
        """Whether someone holds the lock; an expired lease counts as free."""
        return self.get(name) is not None

    def is_expired(self, lock: Lock) -> bool:
        """Whether the lease is over by the hub's clock; it may be taken after a margin."""
        return self._context.now() >= lock.expires_at.timestamp()

    def list(self, owner: str | None = None, include_expired: bool = False) -> builtins.list[Lock]:
        """Locks sorted by name, of one ``owner`` or of all."""
        owner = None if owner is None else normalize("NFC", owner)
        found = LOCK_TABLE.scan(self._context.snapshot(LOCKS))
        kept = [
            lock
            for lock in found
            if (owner is None or lock.owner == owner) and (include_expired or not self.is_expired(lock))
        ]
        return sorted(kept, key=lambda lock: lock.name)


def _acquire(tx: Tx, name: str, owner: str, ttl: float, metadata: dict[str, Any], judge: Judge) -> Lock | None:
    held = LOCK_TABLE.get(tx, LOCKS, name)
    if held is not None:
        if not judge(lock_key(name), held.lease, tx.now):
            return None
        tx.event(LOCKS, "lock expired", lock=name, owner=held.owner, token=held.token)
    lock = model.grant(name, owner, ttl, metadata, now=tx.now, revision=tx.revision)
    LOCK_TABLE.put(tx, LOCKS, name, lock)
    tx.event(LOCKS, "lock acquired", lock=name, owner=owner, token=lock.token)
    return lock


def _drop(tx: Tx, lock: Lock, kind: str) -> None:
    LOCK_TABLE.remove(tx, LOCKS, lock.name)
    tx.event(LOCKS, kind, lock=lock.name, owner=lock.owner, token=lock.token)


def release_all_of(tx: Tx, owner: str, kind: str) -> int:
    """Release the locks of ``owner`` in a transaction over ``locks``; returns how many."""
    held = [lock for lock in LOCK_TABLE.all(tx, LOCKS) if lock.owner == owner]
    for lock in held:
        _drop(tx, lock, kind)
    return len(held)
