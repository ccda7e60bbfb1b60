"""Leader election: of all who run for a name, one leads, under a lease and a fencing token.

An election is the lock ``leader/NAME``.  As with every lease, two may believe
for a moment that they lead; what the older one writes with its token is refused.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from ghcoord.clock import Event
from ghcoord.coord.context import Context
from ghcoord.coord.locks.keepalive import HeldLock
from ghcoord.coord.locks.locks import Locks
from ghcoord.coord.locks.waiting import Granted
from ghcoord.errors import LeaseLost, UsageError
from ghcoord.ids import check_name
from ghcoord.model.lease import GIVE_UP_AT, check_ttl
from ghcoord.model.lock import Lock, LockRecord, Waiter

PREFIX = "leader/"
"""How the locks behind elections begin."""

DEFAULT_TTL = 30.0
"""Seconds for which others wait when a leader falls silent, unless it was chosen."""

JITTER = 1.2
"""The renewal deadline exceeds this many times the renewal interval, so that a second try fits (as in client-go)."""


class Timing(NamedTuple):
    """In seconds: ``ttl`` of the lease; without an acknowledged renewal for ``deadline`` the leader stops itself;
    it renews every ``renew``.
    """

    ttl: float
    deadline: float
    renew: float


def timing(ttl: float | None = None, deadline: float | None = None, renew: float | None = None) -> Timing:
    """A timing from what was chosen; the rest follows: two thirds of the ttl, and half of that.

    Raises ``UsageError`` unless ttl > deadline > 1.2 × renew.
    """
    lease = check_ttl(DEFAULT_TTL if ttl is None else ttl)
    limit = lease * GIVE_UP_AT if deadline is None else deadline
    every = limit / 2 if renew is None else renew
    if not 0 < limit < lease:
        raise UsageError(
            f"a renewal deadline of {limit:g} s does not go with a ttl of {lease:g} s: give less than that"
        )
    if not 0 < every * JITTER < limit:
        raise UsageError(
            f"a renewal every {every:g} s does not go with a deadline of {limit:g} s: "
            f"give less than {limit / JITTER:g} s"
        )
    return Timing(lease, limit, every)


class Term:
    """One time of leading, given to ``on_started``.

    ``token`` is the fencing token: pass it with what the leader writes.
    ``stop`` is set as soon as the lease counts as lost, or when the election is
    to end: the work must end then.
    """

    def __init__(self, lock: Lock, name: str, held: HeldLock, stop: Event, spare: float) -> None:
        self.lock = lock
        self.name = name
        self.stop = stop
        self.spare = spare
        """Seconds from the loss at the latest until others may lead."""
        self._held = held

    @property
    def id(self) -> str:
        """Who leads."""
        return self.lock.owner

    @property
    def token(self) -> int:
        """The fencing token."""
        return self.lock.token

    @property
    def lost(self) -> bool:
        """Whether the lease is lost."""
        return self._held.lost

    def check(self) -> None:
        """Raise ``LeaseLost`` if the lease is lost."""
        self._held.check()


class Election:
    """One candidate. :meth:`run` blocks; :meth:`stop`, from another thread, ends it."""

    def __init__(
        self,
        context: Context,
        locks: Locks,
        name: str,
        candidate: str,
        on_started: Callable[[Term], None],
        on_stopped: Callable[[Term], None] | None,
        on_new_leader: Callable[[str], None] | None,
        *,
        times: Timing,
        fair: bool,
        once: bool,
        metadata: dict[str, Any] | None,
    ) -> None:
        self._context = context
        self._locks = locks
        self._name = name
        self._candidate = candidate
        self._on_started = on_started
        self._on_stopped = on_stopped
        self._on_new_leader = on_new_leader
        self._times = times
        self._fair = fair
        self._once = once
        self._metadata = metadata
        self._ended = context.runtime.event()
        self._mutex = threading.Lock()
        self._term: Term | None = None
        self._leader: str | None = None

    def stop(self) -> None:
        """End the campaign, or the term that runs: its ``stop`` is set, and the lead is given up once it has ended."""
        self._ended.set()
        term = self._term
        if term is not None:
            term.stop.set()

    def run(self) -> None:
        """Campaign and lead, again and again, until ``on_started`` returns while it leads, or :meth:`stop`.

        With ``once`` the loss of the lease raises ``LeaseLost``.
        """
        while not self._ended.is_set():
            granted = self._campaign()
            if granted is None:
                continue
            if self._lead(granted):
                return
            self._ended.wait(self._times.renew)

    def _campaign(self) -> Granted | None:
        granted = self._locks.pursuit(
            PREFIX + self._name,
            self._candidate,
            ttl=self._times.ttl,
            wait=inf,
            fair=self._fair,
            metadata=self._metadata,
            stop=self._ended,
            seen=self._see,
        ).run()
        if granted is not None:
            self._saw(granted.lock.owner)
        return granted

    def _see(self, record: LockRecord | None) -> None:
        if record is not None and record.grants:
            self._saw(record.grants[0].owner)

    def _saw(self, leader: str) -> None:
        if leader != self._leader:
            self._leader = leader
            if self._on_new_leader is not None:
                self._on_new_leader(leader)

    def _lead(self, granted: Granted) -> bool:
        """One term; whether it ended by itself. A loss is raised with ``once``, and so is that of any other lock."""
        over = others = False

        def stopped() -> None:
            nonlocal over
            with self._mutex:
                first, over = not over, True
            term.stop.set()
            if first and self._on_stopped is not None:
                self._on_stopped(term)

        held = self._locks.held(
            PREFIX + self._name,
            lambda: granted,
            on_lost=stopped,
            renew_every=self._times.renew,
            give_up_after=self._times.deadline,
        )
        term = Term(
            granted.lock, self._name, held, self._context.runtime.event(), self._times.ttl - self._times.deadline
        )
        try:
            with held:
                self._term = term
                if self._ended.is_set():
                    term.stop.set()
                try:
                    self._on_started(term)
                except LeaseLost:
                    others = not held.lost and self._leads(granted.lock)
                    raise
                finally:
                    self._term = None
                    stopped()
        except LeaseLost:
            if self._once or others:
                raise
            return False
        return True

    def _leads(self, lock: Lock) -> bool:
        return any(held.token == lock.token for held in self._locks.holders(lock.name, include_expired=True))


class Elections:
    """The elections of a hub."""

    def __init__(self, context: Context, locks: Locks) -> None:
        self._context = context
        self._locks = locks

    def election(
        self,
        name: str,
        on_started: Callable[[Term], None],
        on_stopped: Callable[[Term], None] | None = None,
        *,
        id: str | None = None,
        ttl: float | None = None,
        renew_deadline: float | None = None,
        renew: float | None = None,
        fair: bool = False,
        once: bool = False,
        metadata: dict[str, Any] | None = None,
        on_new_leader: Callable[[str], None] | None = None,
    ) -> Election:
        """A candidate for the lead of ``name``, to be run and stopped.

        ``on_started`` is called with a :class:`Term` when it leads, in the
        thread that runs the election.  ``on_stopped`` is called once a term: as
        soon as the lease counts as lost, from the thread that watches it and
        before anybody else can lead, else when ``on_started`` has returned.
        ``on_new_leader`` is told each change that the campaign sees.

        ``id`` names the candidate (default: this hub's actor).  In seconds, with
        ttl > renew_deadline > 1.2 × renew: ``ttl`` of the lease (default 30),
        ``renew_deadline`` without an acknowledged renewal at which it stops
        itself, ``renew`` between renewals.  ``fair`` leads in the order in which
        candidates came.
        """
        candidate = check_name(id or self._context.actor, "candidate's id")
        check_name(PREFIX + check_name(name, "election"), "election")
        times = timing(ttl, renew_deadline, renew)
        return Election(
            self._context,
            self._locks,
            name,
            candidate,
            on_started,
            on_stopped,
            on_new_leader,
            times=times,
            fair=fair,
            once=once,
            metadata=metadata,
        )

    def run(
        self,
        name: str,
        on_started: Callable[[Term], None],
        on_stopped: Callable[[Term], None] | None = None,
        *,
        id: str | None = None,
        ttl: float | None = None,
        renew_deadline: float | None = None,
        renew: float | None = None,
        fair: bool = False,
        once: bool = False,
        metadata: dict[str, Any] | None = None,
        on_new_leader: Callable[[str], None] | None = None,
    ) -> None:
        """Campaign until elected, lead, campaign again when the lead is lost; arguments as of :meth:`election`.

        Returns when ``on_started`` has returned and the lead was given up.
        """
        self.election(
            name,
            on_started,
            on_stopped,
            id=id,
            ttl=ttl,
            renew_deadline=renew_deadline,
            renew=renew,
            fair=fair,
            once=once,
            metadata=metadata,
            on_new_leader=on_new_leader,
        ).run()

    def current(self, name: str) -> Lock | None:
        """Who leads, as the grant of the lock behind the election: its ``owner``, token and times."""
        return self._locks.get(PREFIX + name)

    def candidates(self, name: str) -> builtins.list[Waiter]:
        """Those who stand in the queue for the lead; of candidates that are not ``fair`` nobody knows."""
        return self._locks.waiters(PREFIX + name)

    def list(self) -> dict[str, Lock]:
        """Who leads, as of :meth:`current`, by the names of the elections."""
        named = (lock for lock in self._locks.list() if lock.name.startswith(PREFIX) and not lock.paths)
        return {lock.name.removeprefix(PREFIX): lock for lock in named}

    def resign(self, name: str, id: str | None = None) -> None:
        """Give up the lead of ``id``; the candidate notices at its next renewal.

        Raises ``NotFound`` when nobody leads, ``NotOwner`` when another does.
        """
        self._locks.release(PREFIX + name, id or self._context.actor, whole=True)
