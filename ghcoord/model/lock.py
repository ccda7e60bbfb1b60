"""Locks: the record and its transitions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from ghcoord.errors import LeaseLost, NotFound, NotOwner
from ghcoord.model.codec import Moment, Record, Token, stamp
from ghcoord.model.lease import MAX_TTL, Lease


class Lock(Record):
    """A held lock. ``token`` is the fencing token: it grows with every grant and never repeats.

    ``ttl`` is in seconds; ``renewal`` is the revision of the last renewal.
    """

    name: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    token: Token
    ttl: float = Field(gt=0, le=MAX_TTL)
    acquired_at: Moment
    renewed_at: Moment
    renewal: Token
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def lease(self) -> Lease:
        return Lease(self.owner, self.token, self.renewal, self.ttl, self.renewed_at)

    @property
    def expires_at(self) -> datetime:
        """When the lease ends by the hub's clock unless it is renewed."""
        return self.lease.expires_at


def lock_key(name: str) -> str:
    """What observers call the lease of the lock ``name``."""
    return f"lock:{name}"


def grant(name: str, owner: str, ttl: float, metadata: dict[str, Any], *, now: float, revision: int) -> Lock:
    """A new grant; its token is the revision of the transaction that makes it."""
    at = stamp(now)
    return Lock(
        name=name,
        owner=owner,
        token=revision,
        ttl=ttl,
        acquired_at=at,
        renewed_at=at,
        renewal=revision,
        metadata=metadata,
    )


def _held(lock: Lock | None, name: str, owner: str, token: int | None) -> Lock:
    """``lock`` if ``owner`` holds it under ``token``, else the reason why not."""
    if lock is None:
        if token is not None:
            raise LeaseLost(f"the lock {name!r} is no longer held under token {token}: acquire it again")
        raise NotFound(f"the lock {name!r} is not held by anyone")
    if token is not None and lock.token != token:
        raise LeaseLost(f"the lock {name!r} is now held under token {lock.token}, not {token}: acquire it again")
    if lock.owner != owner:
        raise NotOwner(f"the lock {name!r} is held by {lock.owner!r}, not by {owner!r}")
    return lock


def renew(
    lock: Lock | None, name: str, owner: str, token: int | None, ttl: float | None, *, now: float, revision: int
) -> Lock:
    """The lock with its lease begun anew.

    An expired lease that nobody has taken over may still be renewed: the grant is the same.
    Raises ``NotFound``, ``NotOwner`` or ``LeaseLost``.
    """
    held = _held(lock, name, owner, token)
    return held.model_copy(
        update={"renewed_at": stamp(now), "renewal": revision, "ttl": held.ttl if ttl is None else ttl}
    )


def release(lock: Lock | None, name: str, owner: str, token: int | None) -> Lock:
    """The grant that ends; raises ``NotFound``, ``NotOwner`` or ``LeaseLost``."""
    return _held(lock, name, owner, token)
