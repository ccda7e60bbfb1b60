"""Locks: what a record holds (grants, waiters), and what a caller gets to see of it.

One record for each name that is held or waited for.  How a grant is made, renewed
and ended is in :mod:`ghcoord.model.lock_steps`, who is next in
:mod:`ghcoord.model.lock_queue`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ghcoord.model.codec import MAX_ATTEMPT, MAX_NUMBER, Moment, Record, Token, stamp
from ghcoord.model.lease import MAX_TTL, Lease

MAX_PERMITS = 1000
"""Most permits of a semaphore: each holder is a part of one record."""

MAX_WAITERS = 1000
"""Most waiters of one lock: each is a part of its record, which every one of their commits writes again."""

MAX_POLL = 600.0
"""Longest poll interval of a waiter in seconds that is believed: a silent one holds up the rest for two of them."""


class Mode(StrEnum):
    """How a lock is held: alone, together with other readers, or as one of a number of permits."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    PERMIT = "permit"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Grant(_Part):
    """One holder. ``token`` is the fencing token: it grows with every grant and never repeats.

    ``ttl`` is in seconds; ``renewal`` is the revision of the last renewal.
    ``depth`` counts how often the holder has entered; ``waited`` is how many
    seconds it waited to get in (0: got it at once), ``waiter`` its id in the queue.
    ``guards`` are the memory namespaces that it was taken for.
    """

    owner: str = Field(min_length=1)
    token: Token
    mode: Mode = Mode.EXCLUSIVE
    ttl: float = Field(gt=0, le=MAX_TTL)
    acquired_at: Moment
    renewed_at: Moment
    renewal: Token
    depth: int = Field(default=1, ge=1, le=MAX_ATTEMPT)
    waited: float = Field(default=0.0, ge=0, le=MAX_NUMBER)
    waiter: str | None = None
    guards: tuple[str, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def lease(self) -> Lease:
        return Lease(self.owner, self.token, self.renewal, self.ttl, self.renewed_at)


class Waiter(_Part):
    """One who stands in the queue. ``id`` is random: an owner that asks twice stands there twice.

    ``poll`` is its poll interval in seconds: once the lock is offered to it, it
    has two of them to take it.  After ``deadline`` it counts as gone.
    ``offered_at`` is since when there is room for it.
    """

    id: str = Field(min_length=1, max_length=40)
    owner: str = Field(min_length=1)
    mode: Mode = Mode.EXCLUSIVE
    since: Moment
    deadline: Moment
    poll: float = Field(gt=0, le=MAX_POLL)
    offered_at: Moment | None = None


class LockRecord(Record):
    """All of one lock. ``latest`` is the highest token ever granted since the record was made."""

    name: str = Field(min_length=1)
    permits: int = Field(default=1, ge=1, le=MAX_PERMITS)
    latest: Token | None = None
    grants: tuple[Grant, ...] = Field(default=(), max_length=MAX_PERMITS)
    waiters: tuple[Waiter, ...] = Field(default=(), max_length=MAX_WAITERS)

    @model_validator(mode="before")
    @classmethod
    def _one_flat_grant(cls, value: Any) -> Any:
        """The first format had its only grant at the top of the record."""
        if not isinstance(value, Mapping) or "grants" in value or "owner" not in value:
            return value
        flat = {key: value[key] for key in _FLAT if key in value}
        rest = {key: one for key, one in value.items() if key not in flat}
        return {**rest, "latest": value.get("token"), "grants": [flat]}

    @property
    def unused(self) -> bool:
        """Whether nobody holds it or waits for it: such a record is removed."""
        return not self.grants and not self.waiters

    def locks(self) -> list[Lock]:
        """Its grants as callers see them, oldest first."""
        return [lock_of(grant, self.name, permits=self.permits) for grant in self.grants]


_FLAT = ("owner", "token", "ttl", "acquired_at", "renewed_at", "renewal", "metadata")


@dataclass(frozen=True, slots=True)
class Lock:
    """A held lock, or one of the grants of a lock that several hold.

    ``token`` is the fencing token: it grows with every grant and never repeats.
    ``ttl`` is in seconds.  ``permits`` is how many may hold it at a time,
    ``depth`` how often its holder has entered.  ``paths`` are the patterns of a
    path lock, whose ``name`` is made of them; ``guards`` the memory namespaces
    that it was taken for.
    """

    name: str
    owner: str
    token: int
    ttl: float
    acquired_at: datetime
    renewed_at: datetime
    renewal: int
    metadata: dict[str, Any] = field(default_factory=dict)
    mode: Mode = Mode.EXCLUSIVE
    permits: int = 1
    depth: int = 1
    paths: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()

    @property
    def lease(self) -> Lease:
        return Lease(self.owner, self.token, self.renewal, self.ttl, self.renewed_at)

    @property
    def expires_at(self) -> datetime:
        """When the lease ends by the hub's clock unless it is renewed."""
        return self.lease.expires_at


def lock_of(grant: Grant, name: str, *, permits: int = 1, paths: tuple[str, ...] = ()) -> Lock:
    """``grant`` as callers see it."""
    return Lock(
        name=name,
        owner=grant.owner,
        token=grant.token,
        ttl=grant.ttl,
        acquired_at=grant.acquired_at,
        renewed_at=grant.renewed_at,
        renewal=grant.renewal,
        metadata=grant.metadata,
        mode=grant.mode,
        permits=permits,
        depth=grant.depth,
        paths=paths,
        guards=grant.guards,
    )


def lock_key(name: str, token: int) -> str:
    """What observers call the lease of the grant ``token`` of the lock ``name``."""
    return f"{LOCK_KEYS}{token}:{name}"


LOCK_KEYS = "lock:"
"""How the observers' keys of all locks begin."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants of a lock. ``waited`` is how many seconds they have tried so far."""

    owner: str
    ttl: float
    mode: Mode = Mode.EXCLUSIVE
    permits: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    waited: float = 0.0
    guards: tuple[str, ...] = ()


def grant(ask: Ask, *, now: float, revision: int, waiter: str | None = None) -> Grant:
    """A new grant; its token is the revision of the transaction that makes it."""
    at = stamp(now)
    return Grant(
        owner=ask.owner,
        token=revision,
        mode=ask.mode,
        ttl=ask.ttl,
        acquired_at=at,
        renewed_at=at,
        renewal=revision,
        waited=round(ask.waited, 3),
        waiter=waiter,
        guards=ask.guards,
        metadata=ask.metadata,
    )
