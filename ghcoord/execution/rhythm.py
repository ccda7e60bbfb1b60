"""How a daemon spends what the server's limits leave it: when it looks, commits and renews, and how much it leases.

Where a hub has no limits there is no :attr:`Rhythm.pace`, and the daemon goes by
its own times alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from ghcoord.hub import Hub
from ghcoord.model.lease import GIVE_UP_AT, MAX_TTL, RENEW_AT
from ghcoord.model.timing import RENEW_LATE, RENEW_LATE_SPREAD, poll_for
from ghcoord.model.worker import Worker
from ghcoord.store.budget.base import Pace

BURST = 2.0
"""Commits that a worker may make sooner than its pace, having made fewer before, or making up for them after.

So a single task on a quiet hub is leased and reported at once.
"""

CROWD = 30
"""Workers that one expects when it meets others who start at the same moment."""

MORE = 5
"""Workers more than there are that one expects at least while the fleet grows."""

CROWD_FOR = 300.0
"""Seconds for which it does: until all have registered."""

COUNT_EVERY = 60.0
"""Seconds between two counts of the others at least: reading their records costs requests."""

FIRST_LEASE = 3.0
"""Times the usual ttl that a worker's first lease has, ..."""

FIRST_LEASE_MOST = 600.0
"""... as far as that is no more than so many seconds."""

AHEAD = 1.1
"""Part of the time until its next commit for which a worker leases tasks."""

RANK_MOST = 3
"""The chores' interval doubles with each worker that goes before, so many times at most."""

LOST_SPREAD = 2.0
"""Seconds for each worker of the account over which those that lost a race spread their next try, at least.

It is what one try takes from its look at the heads to its answer: closer together most would lose again.
"""

FIRST_SPREAD = 4.0
"""The same before the first try for tasks, of those that started together."""

TAIL_PART = 0.25
"""Part of the time between two commits for which a worker leases at least, however few tasks are left to share."""


class Rhythm:
    """The times of one daemon on ``hub``. Other threads may read :attr:`ttl` and :meth:`give_up_at`.

    ``ttl`` in seconds is what was chosen, the shortest that is used; ``poll``
    likewise, ``None`` for what is usual.
    """

    def __init__(self, hub: Hub, ttl: float, poll: float | None) -> None:
        self._hub = hub
        self._runtime = hub.runtime
        self._chosen = ttl
        self._poll = poll_for(ttl, poll, hub.poll_interval)
        self._least_poll = hub.poll_interval if poll is None else poll
        self.pace: Pace | None = hub.pace()
        self._leases: tuple[tuple[float, float], ...] = ((0.0, ttl),)
        self.workers = 1
        """Workers that share the limits: those that were counted, or more that are expected."""
        self.fleet = 1
        """Live workers of the hub."""
        self.rank = 0
        """How many live workers go before this one in doing the fleet's chores."""
        self._counted = 0
        self._counted_at = 0.0
        self._crowd_until = 0.0
        self._credit = BURST
        self._credit_at = self._runtime.monotonic()
        self._written_at = self._credit_at
        self._renew_part = RENEW_LATE
        self._losses = 0
        self._try_takes = LOST_SPREAD
        self.retry_at = 0.0
        """When the next commit may be tried, by the monotonic clock, after a lost race."""

    def refresh(self) -> None:
        """Ask for the present pace."""
        before, self.pace = self.pace, self._hub.pace()
        if self.pace is None:
            return
        now = self._runtime.monotonic()
        every = (before or self.pace).write_every
        self._credit = min(BURST, self._credit + (now - self._credit_at) / max(every, 0.001))
        self._credit_at = now

    # -- looking

    @property
    def poll(self) -> float:
        """Seconds between two looks at a hub on which there is nothing to do."""
        return self._poll if self.pace is None else max(self._least_poll, self.pace.poll_every)

    def chore_every(self, least: float) -> float:
        """Seconds between two rounds of a chore; the first of the live workers does it most often."""
        spread = self._runtime.uniform(0.8, 1.2)
        return max(least, self.poll) * 2.0 ** min(self.rank, RANK_MOST) * spread

    def due_after(self) -> float:
        """Seconds that this worker leaves to those before it until it does what is due itself."""
        return 0.0 if self.pace is None else self.rank * self.poll

    # -- the lease

    def wished_ttl(self, *, first: bool = False) -> float:
        """The ttl whose renewals the limits allow now, in seconds; the ``first`` is longer, as more may come."""
        if self.pace is None:
            return self._chosen
        usual = self.pace.lease_ttl
        longer = max(usual, min(FIRST_LEASE * usual, FIRST_LEASE_MOST)) if first else usual
        return min(MAX_TTL, max(self._chosen, round(longer, 1)))

    @property
    def ttl(self) -> float:
        """Seconds that the lease has, the least of what it may have while an answer is missing."""
        return min(ttl for _, ttl in self._leases)

    def asks(self, sent: float, ttl: float | None) -> None:
        """A request was sent that may renew the lease, with this ``ttl``: from now on either may count."""
        self._leases = (self._leases[0], (sent, ttl if ttl is not None else self._leases[0][1]))

    def granted(self, sent: float, ttl: float | None) -> None:
        """It did, in a commit."""
        self._leases = ((sent, ttl if ttl is not None else self._leases[0][1]),)
        self._written_at = self._runtime.monotonic()
        self._credit = max(-BURST, self._credit - 1)
        self._losses = 0
        self.retry_at = 0.0
        self._renew_part = RENEW_LATE + self._runtime.uniform(-RENEW_LATE_SPREAD, RENEW_LATE_SPREAD)

    def refused(self) -> None:
        """It did not."""
        self._leases = self._leases[:1]

    def renew_at(self) -> float:
        """When the lease must be renewed, by the monotonic clock."""
        part = RENEW_AT if self.pace is None else self._renew_part
        return min(since + ttl * part for since, ttl in self._leases)

    def give_up_at(self) -> float:
        """When the work must stop, since others may take it over, by the monotonic clock."""
        return min(since + ttl * GIVE_UP_AT for since, ttl in self._leases)

    # -- committing

    def write_at(self) -> float:
        """When results that have gathered are committed while others still run, by the monotonic clock."""
        return self._written_at + (max(self.pace.write_every, self._least_poll) if self.pace is not None else 0.0)

    def credit_at(self, wanted: float) -> float:
        """When there will be that much credit, by the monotonic clock."""
        every = self.pace.write_every if self.pace is not None else 0.0
        return self._credit_at + max(0.0, wanted - self._credit) * every

    def ahead(self) -> float:
        """Seconds of work to lease: until the next commit that the worker can afford, and a little more.

        It may commit sooner than that now, but not for long.
        """
        pace = self.pace
        return 0.0 if pace is None else AHEAD * max(pace.write_every, pace.lease_ttl * RENEW_AT, self._least_poll)

    def lost(self) -> float:
        """Somebody else was faster: the seconds until the next try, the more the more workers there are."""
        self._losses += 1
        spread = self.workers * max(LOST_SPREAD, self._try_takes) * 2 ** min(self._losses - 1, 2)
        return self.wait(self._runtime.uniform(0, max(1.0, min(spread, self.ttl / 5))))

    @property
    def losing(self) -> bool:
        """Whether the last try to commit lost."""
        return self._losses > 0

    def tried(self, seconds: float) -> None:
        """A try to commit took so many seconds, reading included."""
        self._try_takes += (seconds - self._try_takes) / 2

    def wait(self, seconds: float) -> float:
        """Make no commit for so many seconds; returns them."""
        self.retry_at = self._runtime.monotonic() + seconds
        return seconds

    # -- the others

    def meet_crowd(self) -> None:
        """Others start at the same moment: more than can be counted yet."""
        self._crowd_until = self._runtime.monotonic() + CROWD_FOR
        self._expect(max(self.workers, CROWD))

    @property
    def knows_others(self) -> bool:
        """Whether they were counted lately: within a part of the lease whose ttl goes by how many they are."""
        return self._counted > 0 and self._runtime.monotonic() - self._counted_at < max(COUNT_EVERY, self.ttl / 6)

    @property
    def crowded(self) -> bool:
        """Whether others have just started too."""
        return self._runtime.monotonic() < self._crowd_until

    def count(self, worker_id: str, workers: Iterable[Worker]) -> None:
        """Learn from the fleet who shares the limits, and tell the budget.

        While the fleet grows, more are expected than there are.
        """
        account = self._hub.account
        others = [worker for worker in workers if worker.alive and worker.id != worker_id]
        present = sum(worker.account == account for worker in others) + 1
        self.fleet = len(others) + 1
        self.rank = sum(worker.id < worker_id for worker in others)
        growing = 0 < self._counted < present
        self._counted = present
        expected = max(present, CROWD if self.crowded else 1)
        if growing:
            expected = max(expected, min(present * 2, max(CROWD, present + MORE)))
        self._counted_at = self._runtime.monotonic()
        self._expect(expected)

    def _expect(self, workers: int) -> None:
        if workers != self.workers:
            self.workers = workers
            self._hub.share(workers)
            self.pace = self._hub.pace()
