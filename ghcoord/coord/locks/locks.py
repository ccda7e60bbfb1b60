"""Locks: leased and fenced; held alone, shared by readers, or as one of a number of permits."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unicodedata import normalize

from ghcoord.clock import Event
from ghcoord.coord.context import LOCK_STATS_TABLE, LOCK_TABLE, PATH_TABLE, Context
from ghcoord.coord.layout import LOCKS
from ghcoord.coord.locks import records
from ghcoord.coord.locks.guards import Ended, check_guards, close_fences
from ghcoord.coord.locks.keepalive import HeldLock
from ghcoord.coord.locks.paths import PathLocks
from ghcoord.coord.locks.records import release_all_of
from ghcoord.coord.locks.waiting import Granted, Pursuit, Retries
from ghcoord.errors import NotFound
from ghcoord.ids import check_name
from ghcoord.model import lock_steps as steps
from ghcoord.model.codec import check_value
from ghcoord.model.lease import MAX_TTL, Judge, check_ttl
from ghcoord.model.lock import LOCK_KEYS, Ask, Lock, LockRecord, Waiter, lock_key
from ghcoord.model.lock_stats import LockStats, with_holders
from ghcoord.store.tx import Tx

__all__ = ["Locks", "release_all_of"]

FORGET_EVERY = 3600.0
"""Seconds between two looks of a daemon for figures of locks that nobody uses any more."""


class Locks:
    """The locks of a hub; ``paths`` are those on parts of a tree of files."""

    def __init__(
        self,
        context: Context,
        *,
        ttl: float | None = None,
        identity: Callable[[], dict[str, Any]],
        retries: Retries | None = None,
    ) -> None:
        self._context = context
        self._ttl = ttl
        self._identity = identity
        self._retries = retries if retries is not None else Retries()
        self._forget_at = context.runtime.monotonic() + FORGET_EVERY
        self.paths = PathLocks(context, details=self._details, default_ttl=self._default_ttl, retries=self._retries)

    def _default_ttl(self) -> float:
        """What this process or the hub was told to use; else the usual, and more where renewals would not fit."""
        if self._ttl is not None:
            return self._ttl
        context = self._context
        usual, budget = context.config().lock_ttl, context.transactor.store.budget
        if budget is None or context.is_configured("locks.ttl"):
            return usual
        return min(MAX_TTL, max(usual, budget.pace().lease_ttl))

    def _details(self, metadata: dict[str, Any] | None) -> dict[str, Any]:
        """``metadata`` with where this process runs."""
        return {**self._identity(), **check_value(dict(metadata or {}), "metadata")}

    # -- taking

    def acquire(
        self,
        name: str,
        owner: str | None = None,
        *,
        ttl: float | None = None,
        wait: float = 0.0,
        metadata: dict[str, Any] | None = None,
        fair: bool = False,
        shared: bool = False,
        permits: int | None = None,
        token: int | None = None,
        guards: Sequence[str] = (),
    ) -> Lock | None:
        """Take the lock ``name``, or return ``None`` when it is not to be had.

        ``owner`` defaults to this hub's actor; an owner who already holds the
        lock gets ``None`` too.  ``ttl`` in seconds; ``wait`` is how many seconds
        to keep trying.  ``metadata`` is any JSON object; host name and pid are
        filled in.  The lock's ``token`` is the fencing token.

        ``fair`` waits in the lock's queue: first come, first served, and nobody
        gets past those who wait there.  ``shared`` holds it together with other
        readers.  ``permits`` lets so many hold it at a time; all must name the
        same number while it is in use.

        With the ``token`` of the present grant its holder enters once more: the
        same token, one more ``depth``, and as many releases.  Only ``ttl`` goes
        with it.  Raises ``LeaseLost`` or ``NotOwner`` then.

        ``guards`` names memory namespaces that the lock is for: its token is
        raised in each, a commit apiece, before the lock is granted.  Fenced
        writes need that where the server commits to one space at a time.
        """
        if token is not None:
            extra = bool(metadata or guards)
            steps.check_entry(fair=fair, shared=shared, permits=permits, wait=wait, token=token, extra=extra)
            return self._enter(name, owner, token, ttl)
        granted = self.pursuit(
            name,
            owner,
            ttl=ttl,
            wait=wait,
            metadata=metadata,
            fair=fair,
            shared=shared,
            permits=permits,
            guards=guards,
        ).run()
        return granted.lock if granted is not None else None

    def pursuit(
        self,
        name: str,
        owner: str | None = None,
        *,
        ttl: float | None = None,
        wait: float = 0.0,
        metadata: dict[str, Any] | None = None,
        fair: bool = False,
        shared: bool = False,
        permits: int | None = None,
        guards: Sequence[str] = (),
        stop: Event | None = None,
        seen: Callable[[LockRecord | None], None] | None = None,
    ) -> Pursuit:
        """The try that :meth:`acquire` makes, for whoever wants to take its steps or to end it early."""
        context = self._context
        extra = bool(metadata)
        mode = steps.check_entry(fair=fair, shared=shared, permits=permits, wait=wait, token=None, extra=extra)
        ask = Ask(
            owner=check_name(owner or context.actor, "owner"),
            ttl=check_ttl(self._default_ttl() if ttl is None else ttl),
            mode=mode,
            permits=permits or 1,
            metadata=self._details(metadata),
        )
        ask = replace(ask, guards=check_guards(guards, ask))
        return Pursuit(
            context,
            check_name(name, "lock name"),
            ask,
            wait=wait,
            fair=fair,
            retries=self._retries,
            quota=context.config().quota_locks,
            stop=stop,
            seen=seen,
        )

    def _enter(self, name: str, owner: str | None, token: int, ttl: float | None) -> Lock:
        name, owner = check_name(name, "lock name"), check_name(owner or self._context.actor, "owner")
        seconds = None if ttl is None else check_ttl(ttl)

        def run(tx: Tx) -> Lock:
            present = records.load(tx, name)
            step = steps.enter(present, name, owner, token, seconds, now=tx.now, revision=tx.revision)
            return records.one_lock(records.store(tx, step))

        return self._retries.run(self._context, lambda: self._context.transact((LOCKS,), run))

    def hold(
        self,
        name: str,
        owner: str | None = None,
        *,
        ttl: float | None = None,
        wait: float = 0.0,
        metadata: dict[str, Any] | None = None,
        fair: bool = False,
        shared: bool = False,
        permits: int | None = None,
        guards: Sequence[str] = (),
        on_lost: Callable[[], None] | None = None,
    ) -> HeldLock:
        """A context manager that holds the lock: renews in the background, releases at the end.

        The arguments are those of :meth:`acquire`.  ``on_lost`` is called from
        the renewing thread as soon as the lease counts as lost, before anybody
        else can get the lock.  Entering raises ``LockHeld`` when the lock is not
        to be had within ``wait`` seconds; leaving raises ``LeaseLost`` when it
        was lost on the way.
        """

        def acquire() -> Granted | None:
            return self.pursuit(
                name,
                owner,
                ttl=ttl,
                wait=wait,
                metadata=metadata,
                fair=fair,
                shared=shared,
                permits=permits,
                guards=guards,
            ).run()

        return self.held(name, acquire, on_lost=on_lost)

    def held(
        self,
        name: str,
        acquire: Callable[[], Granted | None],
        *,
        on_lost: Callable[[], None] | None = None,
        renew_every: float | None = None,
        give_up_after: float | None = None,
    ) -> HeldLock:
        """As :meth:`hold`, with another way to get the lock and, in seconds, another rhythm."""
        name = check_name(name, "lock name")
        return HeldLock(
            self._context.runtime,
            f"the lock {name!r}",
            acquire=acquire,
            renew=lambda lock: self.renew(lock.name, lock.owner, lock.token),
            release=lambda lock: self.release(lock.name, lock.owner, lock.token),
            holder=lambda: self.get(name),
            on_lost=on_lost,
            renew_every=renew_every,
            give_up_after=give_up_after,
        )

    # -- keeping and giving up

    def renew(self, name: str, owner: str, token: int | None = None, *, ttl: float | None = None) -> Lock:
        """Begin the lease anew, optionally with another ttl (seconds).

        An owner who holds several grants of the lock names one by its ``token``.
        Raises ``LeaseLost`` when ``token`` is no longer a grant's, ``NotOwner``, ``NotFound``.
        """
        name, owner = check_name(name, "lock name"), check_name(owner, "owner")
        if ttl is not None:
            check_ttl(ttl)

        def run(tx: Tx) -> Lock:
            present = records.load(tx, name)
            step = steps.renew(present, name, owner, token, ttl, now=tx.now, revision=tx.revision)
            return records.one_lock(records.store(tx, step))

        return self._context.transact((LOCKS,), run, near=records.near(name))

    def release(self, name: str, owner: str, token: int | None = None, *, whole: bool = False) -> Lock | None:
        """Give the lock up; ``None``, or the grant that is left to one who entered several times.

        ``whole`` ends it however often it was entered, without a ``token`` all
        grants of the owner.  Raises ``NotOwner``, ``NotFound``, or ``LeaseLost`` when ``token`` is outdated.
        """
        name, owner = check_name(name, "lock name"), check_name(owner, "owner")

        def run(tx: Tx) -> tuple[Lock | None, Ended]:
            step = records.store(tx, steps.release(records.load(tx, name), name, owner, token, whole=whole, now=tx.now))
            ended = [(grant.token, grant.guards) for _, grant in step.ended]
            return (records.one_lock(step) if step.grant is not None else None), ended

        left, ended = self._context.transact((LOCKS,), run, near=records.near(name))
        close_fences(self._context, name, ended)
        return left

    def release_all(self, owner: str) -> int:
        """Release every lock of ``owner``, of every kind; returns how many grants there were."""
        owner = check_name(owner, "owner")
        return self._context.transact((LOCKS,), lambda tx: release_all_of(tx, owner, "lock released"))

    def force_unlock(self, name: str, token: int | None = None) -> builtins.list[Lock]:
        """End every grant of a lock, or the one with ``token``, whoever holds it; returns what was ended.

        Fenced writes under these grants are refused from then on.  Raises ``NotFound``.
        """
        name = check_name(name, "lock name")

        def run(tx: Tx) -> builtins.list[Lock]:
            record = records.load(tx, name)
            held = [lock for lock in record.locks() if token in (None, lock.token)] if record is not None else []
            if not held:
                under = "" if token is None else f" under token {token}"
                raise NotFound(f"the lock {name!r} is not held by anyone{under}")
            tokens = {lock.token for lock in held}
            records.store(tx, steps.end(record, lambda grant: grant.token in tokens, "lock forced", now=tx.now))
            return held

        forced = self._context.transact((LOCKS,), run, near=records.near(name))
        close_fences(self._context, name, [(lock.token, lock.guards) for lock in forced])
        return forced

    # -- care

    def clean(self) -> int:
        """Remove the locks whose lease has expired by the hub's clock and a margin; returns how many.

        Figures of locks that were not used for a day go too.
        """
        judge = self._context.judge()

        def run(tx: Tx) -> int:
            records.forget_idle(tx)
            return records.clean(tx, judge)

        return self._context.transact((LOCKS,), run)

    def tend(self) -> int:
        """Remove the locks that this process has watched stand still for ttl and margin: what each daemon does.

        Goes by its own observation, not by clocks.  Returns how many were removed.
        """
        context = self._context
        found = self._everything()
        leases = [(lock_key(lock.name, lock.token), lock.lease) for lock in found]
        context.observer.look(leases, complete=LOCK_KEYS)
        self._forget_idle()
        judge, now = context.observer.judge(), context.now()
        if not any(judge(key, lease, now) for key, lease in leases):
            return 0
        return self._clean(judge)

    def _clean(self, judge: Judge) -> int:
        return self._context.transact((LOCKS,), lambda tx: records.clean(tx, judge))

    def _forget_idle(self) -> None:
        context = self._context
        if context.runtime.monotonic() < self._forget_at:
            return
        self._forget_at = context.runtime.monotonic() + FORGET_EVERY
        now = context.now()
        if any(stats.idle(now) for stats in LOCK_STATS_TABLE.scan(context.snapshot(LOCKS))):
            context.transact((LOCKS,), records.forget_idle)

    # -- looking

    def _everything(self) -> builtins.list[Lock]:
        snapshot = self._context.snapshot(LOCKS)
        named = [lock for record in LOCK_TABLE.scan(snapshot) for lock in record.locks()]
        return named + [claim.lock() for claim in PATH_TABLE.scan(snapshot)]

    def _record(self, name: str) -> LockRecord | None:
        return LOCK_TABLE.find(self._context.snapshot(LOCKS), name)

    def get(self, name: str) -> Lock | None:
        """The lock if it is held and its lease runs; the oldest grant of one that several hold."""
        return next(iter(self.holders(name)), None)

    def holders(self, name: str, include_expired: bool = False) -> builtins.list[Lock]:
        """The grants of one lock, oldest first."""
        record = self._record(name)
        held = record.locks() if record is not None else []
        return [lock for lock in held if include_expired or not self.is_expired(lock)]

    def waiters(self, name: str) -> builtins.list[Waiter]:
        """Who stands in the queue of a lock, the first in line first."""
        record, now = self._record(name), self._context.now()
        return [w for w in record.waiters if w.deadline.timestamp() >= now] if record is not None else []

    def is_locked(self, name: str) -> bool:
        """Whether someone holds the lock; an expired lease counts as free."""
        return self.get(name) is not None

    def is_expired(self, lock: Lock) -> bool:
        """Whether the lease is over by the hub's clock; it may be taken after a margin."""
        return self._context.now() >= lock.expires_at.timestamp()

    def list(self, owner: str | None = None, include_expired: bool = False) -> builtins.list[Lock]:
        """Every grant, sorted by name and age, of one ``owner`` or of all; path locks are among them."""
        owner = None if owner is None else normalize("NFC", owner)
        kept = [
            lock
            for lock in self._everything()
            if (owner is None or lock.owner == owner) and (include_expired or not self.is_expired(lock))
        ]
        return sorted(kept, key=lambda lock: (lock.name, lock.token))

    def stats(self, name: str) -> LockStats | None:
        """Figures of one lock; ``None`` when it was not used for a day, or never."""
        snapshot = self._context.snapshot(LOCKS)
        return with_holders(LOCK_STATS_TABLE.find(snapshot, name), LOCK_TABLE.find(snapshot, name))

    def all_stats(self) -> builtins.list[LockStats]:
        """Figures of every lock that was used in the last day, sorted by name; of path locks none are kept."""
        snapshot = self._context.snapshot(LOCKS)
        known = {stats.name: stats for stats in LOCK_STATS_TABLE.scan(snapshot)}
        for record in LOCK_TABLE.scan(snapshot):
            found = with_holders(known.get(record.name), record)
            if found is not None:
                known[record.name] = found
        return [known[name] for name in sorted(known)]
