"""Trying to get a lock for as long as one may: asking again, or standing in its queue.

Who stands in the queue commits to get in, to take the lock and to leave; in
between it only looks, less often the further back it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import NamedTuple, TypeVar

from ghcoord.clock import Event
from ghcoord.coord.context import LOCK_TABLE, Context
from ghcoord.coord.layout import LOCKS
from ghcoord.coord.locks.guards import raise_fences
from ghcoord.coord.locks.records import load, near, one_lock, store, try_acquire
from ghcoord.errors import Corrupt, GhcoordError, NewerSchema, StoreError
from ghcoord.ids import new_op_id
from ghcoord.model import lock_steps as steps
from ghcoord.model.codec import stamp
from ghcoord.model.lease import MAX_TTL, Judge, never
from ghcoord.model.lock import MAX_POLL, Ask, Lock, LockRecord, Waiter, lock_key
from ghcoord.model.lock_queue import offers, place_of, restamped
from ghcoord.store.tx import Tx

T = TypeVar("T")

QUICK = 0.2
"""Seconds between looks of the first in line where looking is cheap: polls of at most a second."""

FURTHEST = 1.25
"""Poll intervals between the looks of those far behind: they may be first sooner than they think."""

LEAVE_TIMEOUT = 5.0
"""Seconds for telling the hub that one waits no longer; what cannot be told is noticed by the others."""


class Retries(NamedTuple):
    """How often to try again when the hub cannot be reached, and the seconds in between."""

    attempts: int = 3
    delay: float = 1.0

    def run(self, context: Context, call: Callable[[], T]) -> T:
        """What ``call`` returns; its last error that is worth another try once they are used up."""
        tried = 0
        while True:
            tried += 1
            try:
                return call()
            except StoreError as error:
                if not error.retryable or tried >= self.attempts:
                    raise
            context.runtime.sleep(self.delay)


class Granted(NamedTuple):
    """A grant, and the monotonic time before the request that got it."""

    lock: Lock
    sent: float


def first_pause(poll: float) -> float:
    """Seconds between two looks of one who is next."""
    return min(poll, QUICK) if poll <= 1 else poll


class Pursuit:
    """One caller's try for one lock; ``wait`` in seconds, ``inf`` for as long as it takes.

    ``fair`` stands in the queue.  ``stop`` ends the wait early.  ``seen`` gets
    the lock's record at each look, ``None`` when it is free.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        ask: Ask,
        *,
        wait: float,
        fair: bool,
        retries: Retries,
        quota: int | None = None,
        stop: Event | None = None,
        seen: Callable[[LockRecord | None], None] | None = None,
    ) -> None:
        runtime = context.runtime
        self._context = context
        self._name = name
        self._ask = ask
        self._fair = fair and wait > 0
        self._wait = wait
        self._retries = retries
        self._quota = quota
        self._stop = stop if stop is not None else runtime.event()
        self._seen = seen
        self._started = runtime.monotonic()
        self._deadline = self._started + wait
        self._tried = False
        self._queued = False
        self._expiry_seen = False
        self._id = new_op_id(runtime.randbits) if self._fair else ""
        self.pause = first_pause(context.poll_interval)
        """Seconds until the next step makes sense."""

    def run(self) -> Granted | None:
        """Step until the lock is got; ``None`` when it was not to be had in time."""
        runtime = self._context.runtime
        try:
            while True:
                granted = self._retries.run(self._context, self.step)
                if granted is not None:
                    return granted
                left = self._deadline - runtime.monotonic()
                if left <= 0 or self._stop.wait(min(self.pause, left)):
                    return None
        finally:
            self.leave()

    def step(self) -> Granted | None:
        """Look, and ask if that may help. Never waits."""
        record = self._look() if self._queued or self._wait or self._seen else None
        judge = self._judge(record)
        if self._queued and not self._due(record, judge):
            return None
        return self._try(judge)

    def leave(self) -> None:
        """Out of the queue, and without a grant that one was never told of, as far as the hub can be told."""
        if not self._queued:
            return
        self._queued = False

        def run(tx: Tx) -> None:
            step = steps.leave(load(tx, self._name), self._id, now=tx.now)
            if step is not None:
                store(tx, step)

        with suppress(GhcoordError):
            self._context.transact((LOCKS,), run, timeout=LEAVE_TIMEOUT)

    # -- looking

    def _look(self) -> LockRecord | None:
        context = self._context
        try:
            record = LOCK_TABLE.find(context.snapshot(LOCKS), self._name)
        except (Corrupt, NewerSchema):
            record = None  # the transaction says what is wrong with it
        if record is not None:
            context.observer.look([(lock_key(self._name, grant.token), grant.lease) for grant in record.grants])
        if self._seen is not None:
            self._seen(record)
        return record

    def _judge(self, record: LockRecord | None) -> Judge:
        """Who waits observes too: where the hub has no clock, nothing else can end a dead holder's lease."""
        context = self._context
        if record is None:
            return context.judge()
        by_clock, by_watching = context.judge(), context.observer.judge()
        return lambda key, lease, now: by_clock(key, lease, now) or by_watching(key, lease, now)

    def _due(self, record: LockRecord | None, judge: Judge) -> bool:
        """Whether there is something to commit; else when to look again."""
        now = self._context.now()
        if record is None:
            return True
        record = steps.sweep(record, never, now).record
        place = place_of(record, self._id)
        if place is None:
            return True
        at = offers(record, now)[place]
        if at <= now:
            return True
        self.pause = self._pause_at(place)
        if at < inf:
            self.pause = min(self.pause, at - now)
        expired = any(judge(lock_key(self._name, g.token), g.lease, now) for g in record.grants)
        # The first in line is the one to act on a lease that is over; the others give it a look's time.
        act = expired and (place == 0 or self._expiry_seen)
        self._expiry_seen = expired
        return act or restamped(record, now) != record

    def _pause_at(self, place: int) -> float:
        poll = self._context.poll_interval
        return min(first_pause(poll) * (1 + place), poll * FURTHEST)

    # -- asking

    def _try(self, judge: Judge) -> Granted | None:
        context, runtime = self._context, self._context.runtime
        sent = runtime.monotonic()
        ask = replace(self._ask, waited=sent - self._started if self._tried else 0.0)
        left = min(self._deadline - sent, MAX_TTL)

        def run(tx: Tx) -> tuple[Lock | None, int | None]:
            waiter = self._waiter(tx.now, left) if self._fair else None
            step = try_acquire(tx, self._name, ask, judge, waiter=waiter, quota=self._quota)
            if step is None:
                return None, None
            place = place_of(step.record, self._id)
            return (one_lock(step) if step.new else None), place

        self._queued = self._fair  # from now on there may be something to take back, whatever the answer
        lock, place = context.transact((LOCKS,), run, near=near(self._name))
        self._tried = True
        if lock is not None:
            self._queued = False
            self._raise_fences(lock)
            return Granted(lock, sent)
        self.pause = self._pause_at(place or 0)
        return None

    def _raise_fences(self, lock: Lock) -> None:
        """The grant counts once its token is raised wherever it guards; what cannot be guarded is given back."""
        try:
            raise_fences(self._context, lock)
        except BaseException:
            with suppress(GhcoordError):
                self._context.transact((LOCKS,), lambda tx: _give_back(tx, lock), timeout=LEAVE_TIMEOUT)
            raise

    def _waiter(self, now: float, left: float) -> Waiter:
        poll = min(self._context.poll_interval, MAX_POLL)
        slack = 2 * poll + self._context.transactor.store.capabilities.clock_margin
        return Waiter(
            id=self._id,
            owner=self._ask.owner,
            mode=self._ask.mode,
            since=stamp(now),
            deadline=stamp(now + max(0.0, left) + slack),
            poll=poll,
        )


def _give_back(tx: Tx, lock: Lock) -> None:
    store(tx, steps.release(load(tx, lock.name), lock.name, lock.owner, lock.token, whole=True, now=tx.now))
