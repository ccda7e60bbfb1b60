"""Memory: the record of a key, and the highest fencing token that a namespace has seen."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from ghcoord.errors import FenceRefused, RevisionMismatch
from ghcoord.model.codec import Moment, Record, Token
from ghcoord.model.lease import after
from ghcoord.model.lock import LockRecord


class MemoryEntry(Record):
    """A key's value. ``revision`` is that of the transaction which set it; ``ttl`` is in seconds."""

    key: str = Field(min_length=1)
    value: Any = None
    revision: Token
    updated_at: Moment
    updated_by: str = ""
    ttl: float | None = Field(default=None, gt=0)

    @property
    def expires_at(self) -> datetime | None:
        """When it ends by the hub's clock; a key with a ttl is no mutex."""
        return None if self.ttl is None else after(self.updated_at, self.ttl)

    def expired(self, now: float) -> bool:
        """Whether its time is over at the hub's time ``now``."""
        end = self.expires_at
        return end is not None and now >= end.timestamp()


class Fence(Record):
    """The highest token under which the lock ``lock`` has guarded this namespace; ``closed`` once it was released."""

    lock: str
    token: Token
    closed: bool = False


def check_revision(entry: MemoryEntry | None, key: str, expected: int | None) -> None:
    """Raise ``RevisionMismatch`` unless ``key`` is at revision ``expected`` (0: must not exist)."""
    actual = entry.revision if entry is not None else 0
    if expected is not None and actual != expected:
        state = f"at revision {actual}" if actual else "not set"
        raise RevisionMismatch(
            f"{key!r} is {state}, not {f'at revision {expected}' if expected else 'unset'}: read it again",
            expected=expected,
            actual=actual,
        )


def check_fence(lock: LockRecord | None, seen: Fence | None, name: str, token: int) -> None:
    """Raise ``FenceRefused`` unless ``token`` is a present grant's, and the lock's state is no older than ``seen``.

    Of several holders each has a token of its own; what was seen may be that of another one, present or past.
    """
    held = {grant.token: grant.owner for grant in lock.grants} if lock is not None else {}
    if lock is None or not held:
        raise FenceRefused(f"the lock {name!r} is not held: token {token} no longer guards anything")
    if token not in held:
        holders = ", ".join(f"{owner!r} under token {other}" for other, owner in list(held.items())[:5])
        raise FenceRefused(f"the lock {name!r} is held by {holders}, not {token}")
    if seen is not None and seen.token > max(lock.latest or 0, *held):
        raise FenceRefused(f"a write under the higher token {seen.token} of {name!r} was seen already")


def check_raised_fence(seen: Fence | None, name: str, token: int, namespace: str) -> None:
    """Raise ``FenceRefused`` unless ``token`` is the one that was raised in the namespace and not closed since."""
    if seen is None or seen.token < token:
        raise FenceRefused(
            f"the lock {name!r} was not taken for the namespace {namespace!r}, and this hub's server commits to one "
            f"space at a time: take it with 'lock acquire {name} --for {namespace}'"
        )
    if seen.token > token:
        raise FenceRefused(f"the lock {name!r} was taken under the higher token {seen.token} since")
    if seen.closed:
        raise FenceRefused(f"the lock {name!r} was released: token {token} no longer guards anything")
