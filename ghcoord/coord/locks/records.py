"""Locks inside of a transaction: what a step changes becomes records, figures and events."""

from __future__ import annotations

from itertools import islice

from ghcoord.coord.context import LOCK_STATS_TABLE, LOCK_TABLE, PATH_TABLE
from ghcoord.coord.layout import LOCK_RECORDS, LOCKS, PATH_CLAIMS
from ghcoord.errors import Corrupt, LockError, NewerSchema, TooLarge
from ghcoord.model.codec import MAX_RECORD, encode
from ghcoord.model.lease import Judge
from ghcoord.model.lock import Ask, Grant, Lock, LockRecord, Mode, Waiter, lock_key, lock_of
from ghcoord.model.lock_paths import PathClaim
from ghcoord.model.lock_stats import counted
from ghcoord.model.lock_steps import Step, acquire, end, sweep
from ghcoord.store.transact import Near
from ghcoord.store.tx import Tx

HEADROOM = 100_000
"""Bytes of a lock's record that newcomers leave free: what happens to it afterwards must fit as well."""


def load(tx: Tx, name: str) -> LockRecord | None:
    """The record of a lock that is held or waited for; raises ``Corrupt`` when a person broke it."""
    return LOCK_TABLE.get(tx, LOCKS, name)


def near(name: str) -> Near:
    """What transactions about one lock read."""
    return {LOCKS: [LOCK_TABLE.path(name), LOCK_STATS_TABLE.path(name)]}


def store(tx: Tx, step: Step) -> Step:
    """Write what a step led to, count it, and tell of it; raises ``TooLarge`` when a newcomer finds no room."""
    record = step.record
    name = record.name
    if record.unused:
        LOCK_TABLE.remove(tx, LOCKS, name)
    else:
        data = encode(record)
        crowded = len(record.grants) + len(record.waiters) > 1
        if (step.new or step.queued is not None) and crowded and len(data) > MAX_RECORD - HEADROOM:
            raise TooLarge(
                f"the record of the lock {name!r} has no room for another: try again later, or shorten metadata"
            )
        tx.write(LOCKS, LOCK_TABLE.path(name), data)
    if step.ended or step.gone:
        _count(tx, name, step)
    for kind, grant in step.ended:
        tell(tx, kind, name, grant)
    for kind, waiter in step.gone:
        tx.event(LOCKS, kind, lock=name, owner=waiter.owner, waiter=waiter.id)
    if step.queued is not None:
        tx.event(LOCKS, "lock queued", lock=name, owner=step.queued.owner, waiter=step.queued.id)
    if step.new and step.grant is not None:
        tell(tx, "lock acquired", name, step.grant)
    return step


def tell(tx: Tx, kind: str, name: str, grant: Grant) -> None:
    """Record that something happened to ``grant``."""
    mode = None if grant.mode is Mode.EXCLUSIVE else str(grant.mode)
    tx.event(LOCKS, kind, lock=name, owner=grant.owner, token=grant.token, mode=mode, waiter=grant.waiter)


def _count(tx: Tx, name: str, step: Step) -> None:
    try:
        stats = LOCK_STATS_TABLE.get(tx, LOCKS, name)
    except Corrupt:
        stats = None  # figures that a person broke start again
    except NewerSchema:
        return  # left to those who can read them
    ended = [(grant, kind == "lock expired") for kind, grant in step.ended]
    LOCK_STATS_TABLE.put(tx, LOCKS, name, counted(stats, name, ended, len(step.gone), now=tx.now))


def try_acquire(
    tx: Tx, name: str, ask: Ask, judge: Judge, *, waiter: Waiter | None = None, quota: int | None = None
) -> Step | None:
    """One attempt to get a lock, or a place in its queue; ``None`` when that changes nothing.

    ``quota`` is how many locks the hub allows at a time, ``None`` for any number.
    """
    present = load(tx, name)
    step = acquire(present, name, ask, judge, now=tx.now, revision=tx.revision, waiter=waiter)
    if step is None or (step.grant is None and step.queued is None and step.record == present):
        return None
    if present is None:
        check_quota(tx, quota)
    return store(tx, step)


def check_quota(tx: Tx, quota: int | None) -> None:
    """Raise ``LockError`` when one lock more would be more than ``quota``."""
    if quota is None:
        return
    held = sum(sum(1 for _ in islice(tx.walk(LOCKS, folder), quota + 1)) for folder in (LOCK_RECORDS, PATH_CLAIMS))
    if held >= quota:
        raise LockError(
            f"this hub allows {quota} locks at a time and has {held}: release one, or raise quota.locks",
            code="QUOTA_EXCEEDED",
        )


def clean(tx: Tx, judge: Judge) -> int:
    """Remove the grants that ``judge`` calls expired and what else is over; returns how many grants."""
    removed = 0
    for record in list(LOCK_TABLE.all(tx, LOCKS)):
        step = sweep(record, judge, tx.now)
        if step.ended or step.gone:
            store(tx, step)
            removed += len(step.ended)
    for claim in list(PATH_TABLE.all(tx, LOCKS)):
        if judge(lock_key(claim.name, claim.token), claim.grant.lease, tx.now):
            drop_claim(tx, claim, "lock expired")
            removed += 1
    return removed


def forget_idle(tx: Tx) -> int:
    """Remove the figures of locks that were not used for a day; returns how many."""
    idle = [
        stats
        for stats in LOCK_STATS_TABLE.all(tx, LOCKS)
        if stats.idle(tx.now) and tx.read(LOCKS, LOCK_TABLE.path(stats.name)) is None
    ]
    for stats in idle:
        LOCK_STATS_TABLE.remove(tx, LOCKS, stats.name)
    return len(idle)


def release_all_of(tx: Tx, owner: str, kind: str) -> int:
    """Release the locks of ``owner`` in a transaction over ``locks``, of every kind; returns how many grants."""
    released = 0

    def own(grant: Grant) -> bool:
        return grant.owner == owner

    for record in list(LOCK_TABLE.all(tx, LOCKS)):
        if any(map(own, record.grants)):
            released += len(store(tx, end(record, own, kind, now=tx.now)).ended)
    for claim in list(PATH_TABLE.all(tx, LOCKS)):
        if own(claim.grant):
            drop_claim(tx, claim, kind)
            released += 1
    return released


def drop_claim(tx: Tx, claim: PathClaim, kind: str) -> None:
    """End a path lock."""
    PATH_TABLE.remove(tx, LOCKS, str(claim.token))
    tell(tx, kind, claim.name, claim.grant)


def one_lock(step: Step) -> Lock:
    """The grant that a step was about, as callers see it."""
    assert step.grant is not None
    return lock_of(step.grant, step.record.name, permits=step.record.permits)
