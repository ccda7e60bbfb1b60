"""Path locks: agents that share a tree of files claim parts of it by patterns."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any
from unicodedata import normalize

from ghcoord.coord.context import PATH_TABLE, Context
from ghcoord.coord.layout import LOCKS
from ghcoord.coord.locks.keepalive import HeldLock
from ghcoord.coord.locks.records import check_quota, drop_claim, tell
from ghcoord.coord.locks.waiting import Granted, Retries, first_pause
from ghcoord.errors import LockError, NotFound, WaitTimeout
from ghcoord.ids import check_name
from ghcoord.model import lock_paths as model
from ghcoord.model import lock_steps as steps
from ghcoord.model.lease import Judge, check_ttl
from ghcoord.model.lock import Ask, Grant, Lock, Mode, lock_key
from ghcoord.model.lock_globs import check_patterns
from ghcoord.model.lock_paths import MAX_CLAIMS, MAX_HELD_PATTERNS, MAX_PATTERNS, PathClaim, name_of
from ghcoord.store.tx import Tx


class PathLocks:
    """Locks on parts of a tree of files, reached as ``hub.locks.paths``.

    Such a lock has a list of patterns in place of a name: ``src/**``,
    ``docs/*.md`` (:mod:`ghcoord.model.lock_globs` says what they mean).  It is
    granted when no path that fits one of them fits a pattern of somebody
    else's, all patterns at once or none.  The patterns are names only: nobody
    is kept from touching the files.
    """

    def __init__(
        self,
        context: Context,
        *,
        details: Callable[[dict[str, Any] | None], dict[str, Any]],
        default_ttl: Callable[[], float],
        retries: Retries,
    ) -> None:
        self._context = context
        self._details = details
        self._default_ttl = default_ttl
        self._retries = retries

    # -- taking

    def acquire(
        self,
        patterns: Iterable[str],
        owner: str | None = None,
        *,
        ttl: float | None = None,
        wait: float = 0.0,
        metadata: dict[str, Any] | None = None,
        shared: bool = False,
        token: int | None = None,
    ) -> Lock | None:
        """Claim all paths that fit ``patterns``, or return ``None`` when a claim of others is in the way.

        ``shared`` claims beside other shared ones, for reading.  Claims of the
        same owner are in the way as well.  With the ``token`` of a claim of
        just these patterns its holder enters once more.  The other arguments
        are those of :meth:`ghcoord.coord.locks.locks.Locks.acquire`; there is no queue.
        """
        if token is not None:
            extra = bool(metadata)
            steps.check_entry(fair=False, shared=shared, permits=None, wait=wait, token=token, extra=extra)
            return self._enter(patterns, owner, token, ttl)
        granted = self._acquire_sent(patterns, owner, ttl=ttl, wait=wait, metadata=metadata, shared=shared)
        return granted.lock if granted is not None else None

    def _acquire_sent(
        self,
        patterns: Iterable[str],
        owner: str | None,
        *,
        ttl: float | None,
        wait: float,
        metadata: dict[str, Any] | None,
        shared: bool,
    ) -> Granted | None:
        context = self._context
        wanted = check_patterns(patterns, MAX_PATTERNS)
        ask = Ask(
            owner=check_name(owner or context.actor, "owner"),
            ttl=check_ttl(self._default_ttl() if ttl is None else ttl),
            mode=Mode.SHARED if shared else Mode.EXCLUSIVE,
            metadata=self._details(metadata),
        )
        quota = context.config().quota_locks

        def attempt() -> Granted | None:
            judge = self._waiting_judge() if wait > 0 else context.judge()
            sent = context.runtime.monotonic()
            lock = context.transact((LOCKS,), lambda tx: _claim(tx, wanted, ask, judge, quota))
            return None if lock is None else Granted(lock, sent)

        def persist() -> Granted | None:
            return self._retries.run(context, attempt)

        if wait <= 0:
            return persist()
        try:
            return context.poll(persist, wait, "the paths were not free", first_pause(context.poll_interval))
        except WaitTimeout:
            return None

    def _waiting_judge(self) -> Judge:
        context = self._context
        found = PATH_TABLE.scan(context.snapshot(LOCKS))
        context.observer.look([(lock_key(one.name, one.token), one.grant.lease) for one in found])
        by_clock, by_watching = context.judge(), context.observer.judge()
        return lambda key, lease, now: by_clock(key, lease, now) or by_watching(key, lease, now)

    def _enter(self, patterns: Iterable[str], owner: str | None, token: int, ttl: float | None) -> Lock:
        seconds = None if ttl is None else check_ttl(ttl)

        def change(grant: Grant, tx: Tx) -> Grant:
            return steps.entered(grant, seconds, now=tx.now, revision=tx.revision)

        return self._retries.run(
            self._context, lambda: self._change(patterns, owner or self._context.actor, token, change)
        )

    def hold(
        self,
        patterns: Iterable[str],
        owner: str | None = None,
        *,
        ttl: float | None = None,
        wait: float = 0.0,
        metadata: dict[str, Any] | None = None,
        shared: bool = False,
        on_lost: Callable[[], None] | None = None,
    ) -> HeldLock:
        """A context manager that holds the paths, as :meth:`ghcoord.coord.locks.locks.Locks.hold` does a lock."""
        wanted = check_patterns(patterns, MAX_PATTERNS)
        return HeldLock(
            self._context.runtime,
            f"the path lock {name_of(wanted)!r}",
            acquire=lambda: self._acquire_sent(wanted, owner, ttl=ttl, wait=wait, metadata=metadata, shared=shared),
            renew=lambda lock: self.renew(lock.paths, lock.owner, lock.token),
            release=lambda lock: self.release(lock.paths, lock.owner, lock.token),
            holder=lambda: next(iter(self.overlapping(wanted)), None),
            on_lost=on_lost,
        )

    # -- keeping and giving up

    def renew(self, patterns: Iterable[str], owner: str, token: int | None = None, *, ttl: float | None = None) -> Lock:
        """Begin the lease of the claim with just these patterns anew; errors as of ``hub.locks.renew``."""
        seconds = None if ttl is None else check_ttl(ttl)
        return self._change(
            patterns,
            owner,
            token,
            lambda grant, tx: steps.renewed(grant, seconds, now=tx.now, revision=tx.revision),
        )

    def _change(
        self, patterns: Iterable[str], owner: str, token: int | None, change: Callable[[Grant, Tx], Grant]
    ) -> Lock:
        wanted, owner = check_patterns(patterns, MAX_PATTERNS), check_name(owner, "owner")

        def run(tx: Tx) -> Lock:
            found = _find(tx, wanted, owner, token)
            changed = found.model_copy(update={"grant": change(found.grant, tx)})
            PATH_TABLE.put(tx, LOCKS, str(changed.token), changed)
            return changed.lock()

        return self._context.transact((LOCKS,), run)

    def release(
        self, patterns: Iterable[str], owner: str, token: int | None = None, *, whole: bool = False
    ) -> Lock | None:
        """Give up the claim with just these patterns; as ``hub.locks.release``."""
        wanted, owner = check_patterns(patterns, MAX_PATTERNS), check_name(owner, "owner")

        def run(tx: Tx) -> Lock | None:
            found = _find(tx, wanted, owner, token)
            if found.grant.depth > 1 and not whole:
                left = found.model_copy(update={"grant": steps.stepped_out(found.grant)})
                PATH_TABLE.put(tx, LOCKS, str(left.token), left)
                return left.lock()
            drop_claim(tx, found, "lock released")
            return None

        return self._context.transact((LOCKS,), run)

    def force_unlock(self, patterns: Iterable[str], token: int | None = None) -> builtins.list[Lock]:
        """End every claim that overlaps ``patterns``, or of these the one with ``token``; raises ``NotFound``."""
        wanted = check_patterns(patterns, MAX_PATTERNS)

        def run(tx: Tx) -> builtins.list[Lock]:
            met = [one for one in _claims(tx) if token in (None, one.token) and model.meets(one, wanted)]
            if not met:
                raise NotFound(f"no path lock overlaps {name_of(wanted)!r}")
            for one in met:
                drop_claim(tx, one, "lock forced")
            return [one.lock() for one in met]

        return self._context.transact((LOCKS,), run)

    # -- looking

    def list(self, owner: str | None = None, include_expired: bool = False) -> builtins.list[Lock]:
        """Every path lock, oldest first, of one ``owner`` or of all."""
        owner = None if owner is None else normalize("NFC", owner)
        now = self._context.now()
        found = [one.lock() for one in PATH_TABLE.scan(self._context.snapshot(LOCKS))]
        kept = [
            lock
            for lock in found
            if (owner is None or lock.owner == owner) and (include_expired or now < lock.expires_at.timestamp())
        ]
        return sorted(kept, key=lambda lock: lock.token)

    def overlapping(self, patterns: Iterable[str], include_expired: bool = False) -> builtins.list[Lock]:
        """The path locks that have a path in common with ``patterns``, oldest first."""
        wanted = check_patterns(patterns, MAX_PATTERNS)
        return [lock for lock in self.list(include_expired=include_expired) if model.overlapping(lock.paths, wanted)]


def _claims(tx: Tx) -> builtins.list[PathClaim]:
    return sorted(PATH_TABLE.all(tx, LOCKS), key=lambda one: one.token)


def _claim(tx: Tx, patterns: tuple[str, ...], ask: Ask, judge: Judge, quota: int | None) -> Lock | None:
    claims = builtins.list(islice(PATH_TABLE.all(tx, LOCKS), MAX_CLAIMS + 1))
    over = [one for one in claims if judge(lock_key(one.name, one.token), one.grant.lease, tx.now)]
    alive = [one for one in claims if one not in over]
    if model.in_the_way(alive, patterns, ask.mode):
        return None
    held = sum(len(one.patterns) for one in alive)
    if len(alive) >= MAX_CLAIMS or held + len(patterns) > MAX_HELD_PATTERNS:
        raise LockError(
            f"{len(alive)} path locks with {held} patterns are held already: release some, or use fewer patterns",
            code="LOCK_CROWDED",
        )
    for one in over:
        drop_claim(tx, one, "lock expired")
    check_quota(tx, quota)
    made = model.claim(patterns, ask, now=tx.now, revision=tx.revision)
    PATH_TABLE.put(tx, LOCKS, str(made.token), made)
    tell(tx, "lock acquired", made.name, made.grant)
    return made.lock()


def _find(tx: Tx, patterns: tuple[str, ...], owner: str, token: int | None) -> PathClaim:
    """The claim of ``owner`` with just these patterns, under ``token`` if it is given, else the reason why not."""
    claims = [one for one in _claims(tx) if one.patterns == patterns]
    grant = steps.holder([one.grant for one in claims], name_of(patterns), owner, token)
    return next(one for one in claims if one.grant == grant)
