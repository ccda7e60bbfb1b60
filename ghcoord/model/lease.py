"""Leases: who holds something, under which token, until when, and who may say that it has expired."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from ghcoord.errors import UsageError

MIN_TTL = 1.0
"""Shortest lease in seconds: below it the margins between processes exceed the lease."""

MAX_TTL = 30 * 86400.0
"""Longest lease in seconds (30 days): whoever needs longer renews."""

RENEW_AT = 1 / 3
"""An owner renews after this part of its ttl (two tries are left before it gives up)."""

GIVE_UP_AT = 2 / 3
"""An owner without an acknowledged renewal for this part of its ttl stops its work.

Others take over after a whole ttl and a margin, so that the owner has stopped by then.
"""


def after(start: datetime, seconds: float) -> datetime:
    """``seconds`` after ``start``, at the latest the end of the calendar: people write any year into a record."""
    try:
        return start + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


class Lease(NamedTuple):
    """What an observer needs to know of a lease: it is alive while (token, renewal) changes."""

    owner: str
    token: int
    renewal: int
    ttl: float
    renewed_at: datetime

    @property
    def expires_at(self) -> datetime:
        """When it ends by the hub's clock unless renewed."""
        return after(self.renewed_at, self.ttl)


class Judge(Protocol):
    """Says whether a foreign lease has expired, at the hub's time ``now`` (seconds)."""

    def __call__(self, key: str, lease: Lease, now: float) -> bool: ...


def by_server_clock(margin: float) -> Judge:
    """A judge that trusts the hub's clock to ``margin`` seconds: for one-shot commands."""

    def expired(key: str, lease: Lease, now: float) -> bool:
        return now > lease.expires_at.timestamp() + margin

    return expired


def never(key: str, lease: Lease, now: float) -> bool:
    """The judge of hubs without a clock of their own, before anything was observed."""
    return False


def check_ttl(ttl: float) -> float:
    """``ttl`` in seconds if it is within bounds; raises ``UsageError``."""
    if not MIN_TTL <= ttl <= MAX_TTL:
        raise UsageError(f"a ttl of {ttl:g} s is out of range: give {MIN_TTL:.0f} s to 30 days")
    return ttl
