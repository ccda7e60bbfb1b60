"""A store that fails as networks and servers do, on command."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping

from ghcoord.errors import Conflict, OutcomeUnknown, StoreError, Throttled, Unavailable
from ghcoord.store.base import ChangeSet, Oid, Operation, Store
from ghcoord.store.wrappers import WrappedStore


class CommitFault(enum.Enum):
    """What may happen to one commit."""

    REQUEST_LOST = "request lost before the effect"
    REPLY_LOST = "reply lost after the effect"
    DELAYED = "reported unknown, lands later"
    CONFLICT_AFTER_LANDING = "landed, resent by the transport, reported as a conflict"
    UNAVAILABLE = "refused: unavailable"
    THROTTLED = "refused: throttled"


class HeadsFault(enum.Enum):
    """What may happen to one reading of the heads."""

    STALE = "an older answer"
    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"


THROTTLE = 5.0
"""Seconds for which a throttled request tells the client to wait."""


class FaultyStore(WrappedStore):
    """``inner`` with faults: those queued by :meth:`fail_commits` and :meth:`fail_heads`, in order.

    ``seen`` is every state of the heads this store knows of, oldest first;
    stale answers come from it, and several handles may share one list.
    Objects never change and are read without faults.
    """

    def __init__(self, inner: Store, seen: list[dict[str, Oid]] | None = None) -> None:
        super().__init__(inner)
        self.seen: list[dict[str, Oid]] = seen if seen is not None else [inner.heads()]
        self.requests = 0
        """Commits sent, whatever became of them."""
        self.stale_by = 1
        """How many states back a stale answer is."""
        self._commit_faults: deque[CommitFault | None] = deque()
        self._heads_faults: deque[HeadsFault | None] = deque()
        self._delayed: deque[Callable[[], None]] = deque()

    # -- programming

    def fail_commits(self, *faults: CommitFault | None) -> None:
        """Let the next commits meet ``faults``, one each; ``None`` lets one through."""
        self._commit_faults.extend(faults)

    def fail_heads(self, *faults: HeadsFault | None) -> None:
        """Let the next readings of the heads meet ``faults``, one each."""
        self._heads_faults.extend(faults)

    def land_delayed(self) -> int:
        """Let the delayed requests arrive now; returns how many there were."""
        landed = 0
        while self._delayed:
            self._delayed.popleft()()
            landed += 1
        return landed

    def next_commit_fault(self) -> CommitFault | None:
        """The fault of the commit being made; the simulation draws it instead."""
        return self._commit_faults.popleft() if self._commit_faults else None

    def next_heads_fault(self) -> HeadsFault | None:
        """The fault of the reading being made."""
        return self._heads_faults.popleft() if self._heads_faults else None

    def delay(self, land: Callable[[], None]) -> None:
        """Keep ``land`` for later."""
        self._delayed.append(land)

    # -- the port

    def heads(self) -> dict[str, Oid]:
        fault = self.next_heads_fault()
        if fault is HeadsFault.UNAVAILABLE:
            raise Unavailable("injected: the heads cannot be read")
        if fault is HeadsFault.THROTTLED:
            raise Throttled("injected: reading is throttled", self.inner.server_time() + THROTTLE)
        self.note()
        if fault is HeadsFault.STALE:
            return dict(self.seen[max(0, len(self.seen) - 1 - self.stale_by)])
        return dict(self.seen[-1])

    def note(self) -> None:
        """Remember the present heads."""
        heads = self.inner.heads()
        if not self.seen or self.seen[-1] != heads:
            self.seen.append(heads)

    def commit(
        self,
        expected: Mapping[str, Oid | None],
        changes: Mapping[str, ChangeSet],
        op: Operation,
    ) -> dict[str, Oid]:
        self.requests += 1
        fault = self.next_commit_fault()

        def land() -> dict[str, Oid]:
            made = self.inner.commit(expected, changes, op)
            self.note()
            return made

        def land_quietly() -> None:
            try:
                land()
            except StoreError:
                return  # it came too late: there is nobody left to tell

        if fault is CommitFault.UNAVAILABLE:
            raise Unavailable("injected: the hub cannot be reached")
        if fault is CommitFault.THROTTLED:
            raise Throttled("injected: writing is throttled", self.inner.server_time() + THROTTLE)
        if fault is CommitFault.REQUEST_LOST:
            raise OutcomeUnknown("injected: no answer")
        if fault is CommitFault.DELAYED:
            self.delay(land_quietly)
            raise OutcomeUnknown("injected: no answer")
        if fault is CommitFault.REPLY_LOST:
            land_quietly()
            raise OutcomeUnknown("injected: no answer")
        if fault is CommitFault.CONFLICT_AFTER_LANDING:
            land_quietly()
            raise Conflict("injected: the transport sent it twice")
        return land()
