"""Who may take a lock, and when: first come, first served, past those who stay silent.

A free lock is offered to the head of the queue for two of its poll intervals,
then to the next as well, and so on.  Whoever asks without standing in the queue
comes after all who do.  Readers of a shared lock and permits of a semaphore are
offered at the same time, as many as there is room for.

Times are the hub's, in seconds.  They decide about the order alone, never about
who holds the lock, so clocks that differ cost fairness and nothing else.
"""

from __future__ import annotations

import heapq
from math import inf

from ghcoord.model.codec import stamp
from ghcoord.model.lock import LockRecord, Mode, Waiter

PATIENCE = 2
"""Poll intervals for which a lock is offered to a waiter before the next may step over it."""


def patience(waiter: Waiter) -> float:
    """Seconds that ``waiter`` has to take what it is offered."""
    return PATIENCE * waiter.poll


class _Room:
    """Who is in: the holders, and those for whom a place is kept."""

    def __init__(self, record: LockRecord) -> None:
        self._permits = record.permits
        self._all = len(record.grants)
        self._readers = sum(1 for grant in record.grants if grant.mode is Mode.SHARED)

    def has(self, mode: Mode) -> bool:
        if self._permits > 1:
            return self._all < self._permits
        return self._all == 0 or (mode is Mode.SHARED and self._all == self._readers)

    def add(self, mode: Mode, change: int = 1) -> None:
        self._all += change
        self._readers += change if mode is Mode.SHARED else 0


def offers(record: LockRecord, now: float, newcomer: Mode | None = None) -> list[float]:
    """Since or from when each waiter may take the lock, in their order, and last the ``newcomer`` if there is one.

    ``inf``: not before a holder lets go.  A newcomer to a free lock without waiters gets ``-inf``.
    """
    room = _Room(record)
    ends: list[tuple[float, int, Mode]] = []
    found: list[float] = []
    at = -inf

    def end_first() -> float:
        end, _, mode = heapq.heappop(ends)
        room.add(mode, -1)
        return end

    for place, waiter in enumerate([*record.waiters, *([None] if newcomer is not None else [])]):
        mode = newcomer if waiter is None else waiter.mode
        assert mode is not None
        while ends and ends[0][0] <= at:
            end_first()
        while not room.has(mode) and ends:
            at = max(at, end_first())
        if not room.has(mode):
            at = inf
        elif waiter is not None and (waiter.offered_at is not None or at == -inf):
            at = max(at, min((waiter.offered_at or waiter.since).timestamp(), now))
        found.append(at)
        if waiter is not None and at < inf:
            room.add(mode)
            heapq.heappush(ends, (at + patience(waiter), place, mode))
    return found


def silent(record: LockRecord, times: list[float], now: float, before: int) -> set[str]:
    """Ids of the waiters in front of place ``before`` who did not take what they were offered."""
    return {
        waiter.id for waiter, at in zip(record.waiters[:before], times, strict=False) if at + patience(waiter) <= now
    }


def place_of(record: LockRecord, waiter_id: str) -> int | None:
    """Where in the queue a waiter stands, from 0; ``None`` when it does not."""
    return next((at for at, waiter in enumerate(record.waiters) if waiter.id == waiter_id), None)


def restamped(record: LockRecord, now: float) -> LockRecord:
    """``record`` with ``offered_at`` at exactly those waiters for whom there is room now; done by every commit.

    One who is offered a place keeps its time.  A time in the future, left by a clock that was set back, is set to now.
    """
    room = _Room(record)
    waiters: list[Waiter] = []
    open_ = True
    for waiter in record.waiters:
        open_ = open_ and room.has(waiter.mode)
        offered = waiter.offered_at
        if not open_:
            offered = None
        elif offered is None or offered.timestamp() > now + patience(waiter):
            offered = stamp(now)
        if open_:
            room.add(waiter.mode)
        waiters.append(waiter if offered == waiter.offered_at else waiter.model_copy(update={"offered_at": offered}))
    return record if tuple(waiters) == record.waiters else record.model_copy(update={"waiters": tuple(waiters)})
