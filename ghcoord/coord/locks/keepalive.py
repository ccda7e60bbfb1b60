"""Renewing a lease in the background, and noticing in time that it is lost.

The owner counts from *sending* its last acknowledged renewal, by a clock that
runs on while the machine is suspended.  It renews at a third of the ttl and
gives up at two thirds, unless told otherwise, before anybody else may take over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from ghcoord.clock import Runtime, Thread
from ghcoord.errors import GhcoordError, LeaseLost, LockHeld, NotFound, NotOwner, WorkerReplaced
from ghcoord.model.lease import GIVE_UP_AT, RENEW_AT
from ghcoord.model.lock import Lock

LOST = (LeaseLost, NotFound, NotOwner, WorkerReplaced)
"""Answers to a renewal that prove the lease lost; any other error is tried again until time is up."""


class Keepalive:
    """Calls ``renew`` in a thread; ``on_lost`` once, when the lease is lost or must be taken for lost.

    ``ttl`` is in seconds.  ``granted_at`` is the monotonic time before the
    request that got the lease was sent.  ``renew_every`` and ``give_up_after``
    in seconds replace the usual parts of the ttl.
    """

    def __init__(
        self,
        runtime: Runtime,
        ttl: float,
        renew: Callable[[], object],
        on_lost: Callable[[], None] | None = None,
        *,
        granted_at: float | None = None,
        renew_every: float | None = None,
        give_up_after: float | None = None,
        name: str = "lease",
    ) -> None:
        self._runtime = runtime
        self._every = ttl * RENEW_AT if renew_every is None else renew_every
        self._limit = ttl * GIVE_UP_AT if give_up_after is None else give_up_after
        self._renew = renew
        self._on_lost = on_lost
        self._acknowledged = runtime.monotonic() if granted_at is None else granted_at
        self._stopped = runtime.event()
        self._lost = runtime.event()
        self._mutex = threading.Lock()
        self._threads: list[Thread] = []
        self._name = name

    @property
    def lost(self) -> bool:
        """Whether the lease is lost: reported so, or not renewed for too long."""
        return self._lost.is_set() or (
            not self._stopped.is_set() and self._runtime.monotonic() - self._acknowledged > self._limit
        )

    def start(self) -> None:
        """Begin to renew, and to watch apart from it: a renewal may hang for longer than the lease."""
        self._threads = [
            self._runtime.spawn(self._renew_until_stopped, f"ghcoord-renew-{self._name}"),
            self._runtime.spawn(self._watch, f"ghcoord-watch-{self._name}"),
        ]

    def stop(self) -> None:
        """Stop renewing; the lease is not released."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _due(self) -> float:
        """Seconds until the next renewal."""
        return max(0.0, self._acknowledged + self._every - self._runtime.monotonic())

    def _renew_until_stopped(self) -> None:
        runtime = self._runtime
        retry = max(0.05, self._every / 4)
        wait = self._due()
        while not self._stopped.wait(min(wait, self._every / 2)) and not self._lost.is_set():
            if self._due() > 0:
                wait = self._due()
                continue
            sent = runtime.monotonic()
            try:
                self._renew()
            except LOST:
                self._lose()
                return
            except GhcoordError:
                wait = retry
            else:
                self._acknowledged = sent
                wait = self._due()

    def _watch(self) -> None:
        """Call the lease lost in time, whatever the renewing thread is waiting for."""
        while True:
            left = self._acknowledged + self._limit - self._runtime.monotonic()
            if left <= 0:
                self._lose()
                return
            if self._stopped.wait(min(left, self._limit / 4)) or self._lost.is_set():
                return

    def _lose(self) -> None:
        with self._mutex:
            first = not self._lost.is_set() and not self._stopped.is_set()
            if first:
                self._lost.set()
        if first and self._on_lost is not None:
            self._on_lost()


class HeldLock:
    """A lock held for the length of a ``with`` block, of whatever kind it is.

    ``what`` is how messages call it.
    """

    def __init__(
        self,
        runtime: Runtime,
        what: str,
        *,
        acquire: Callable[[], tuple[Lock, float] | None],
        renew: Callable[[Lock], object],
        release: Callable[[Lock], object],
        holder: Callable[[], Lock | None],
        on_lost: Callable[[], None] | None,
        renew_every: float | None = None,
        give_up_after: float | None = None,
    ) -> None:
        self._runtime = runtime
        self._what = what
        self._acquire = acquire
        self._renew = renew
        self._release = release
        self._holder = holder
        self._on_lost = on_lost
        self._times = (renew_every, give_up_after)
        self._lock: Lock | None = None
        self._keepalive: Keepalive | None = None

    @property
    def lock(self) -> Lock:
        """The grant; raises ``LeaseLost`` outside of the ``with`` block."""
        if self._lock is None:
            raise LeaseLost(f"{self._what} is not held here")
        return self._lock

    @property
    def token(self) -> int:
        """The fencing token to pass with every write that the lock guards."""
        return self.lock.token

    @property
    def lost(self) -> bool:
        """Whether the lease is lost: long work looks at this and stops."""
        return self._keepalive is None or self._keepalive.lost

    def check(self) -> None:
        """Raise ``LeaseLost`` if the lease is lost."""
        if self.lost:
            raise LeaseLost(f"the lease of {self._what} was lost: stop the work it guarded")

    def __enter__(self) -> HeldLock:
        granted = self._acquire()
        if granted is None:
            holder = self._holder()
            who = f" by {holder.owner!r}" if holder is not None else ""
            raise LockHeld(f"{self._what} is held{who}")
        lock, sent = granted
        every, limit = self._times
        self._lock = lock
        self._keepalive = Keepalive(
            self._runtime,
            lock.ttl,
            lambda: self._renew(lock),
            self._on_lost,
            granted_at=sent,
            renew_every=every,
            give_up_after=limit,
            name=lock.name,
        )
        self._keepalive.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keepalive, lock = self._keepalive, self._lock
        if keepalive is None or lock is None:
            return
        lost = keepalive.lost
        keepalive.stop()
        self._keepalive = self._lock = None
        if lost:
            if error is None:
                raise LeaseLost(f"the lease of {self._what} was lost before the work ended")
            return
        try:
            self._release(lock)
        except (LeaseLost, NotFound, NotOwner):
            if error is None:
                raise LeaseLost(f"the lease of {self._what} was lost before the work ended") from None
