"""What is counted about the grants of one lock."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from ghcoord.model.codec import MAX_NUMBER, Count, Moment, Record, stamp
from ghcoord.model.lock import Grant, LockRecord

IDLE_AFTER = 86400.0
"""Seconds after the last grant's end at which a lock's figures are removed: names come and go."""


class LockStats(Record):
    """Figures of one lock, since it was first used or since its figures were last removed.

    ``acquisitions``: grants, among them ``contended`` ones, who had to wait, and
    ``expired`` ones, whose holder fell silent.  ``left``: waiters who left the
    queue without the lock, by themselves or passed over.  Times in seconds:
    ``held`` of the grants that have ended, ``waited`` of all.
    """

    name: str = Field(min_length=1)
    acquisitions: Count = 0
    contended: Count = 0
    expired: Count = 0
    left: Count = 0
    held_total: float = Field(default=0.0, ge=0, le=MAX_NUMBER)
    held_max: float = Field(default=0.0, ge=0, le=MAX_NUMBER)
    waited_total: float = Field(default=0.0, ge=0, le=MAX_NUMBER)
    waited_max: float = Field(default=0.0, ge=0, le=MAX_NUMBER)
    last_owner: str = ""
    updated_at: Moment

    def idle(self, now: float) -> bool:
        """Whether nothing was counted for so long that it may be removed."""
        return now - self.updated_at.timestamp() > IDLE_AFTER


def held_for(grant: Grant, now: float) -> float:
    """Seconds from a grant until now, at most to the end of its lease."""
    return max(0.0, min(now, grant.lease.expires_at.timestamp()) - grant.acquired_at.timestamp())


def counted(
    stats: LockStats | None, name: str, ended: Iterable[tuple[Grant, bool]], left: int, *, now: float
) -> LockStats:
    """``stats`` with grants that ended, each with whether it expired, and so many waiters who left."""
    one = stats if stats is not None else LockStats(name=name, updated_at=stamp(now))
    for grant, expired in ended:
        held = held_for(grant, now)
        one = _granted(one, grant).model_copy(
            update={
                "expired": one.expired + expired,
                "held_total": round(one.held_total + held, 3),
                "held_max": round(max(one.held_max, held), 3),
            }
        )
    return one.model_copy(update={"left": one.left + left, "updated_at": stamp(now)})


def _granted(stats: LockStats, grant: Grant) -> LockStats:
    return stats.model_copy(
        update={
            "acquisitions": stats.acquisitions + 1,
            "contended": stats.contended + (grant.waited > 0),
            "waited_total": round(stats.waited_total + grant.waited, 3),
            "waited_max": max(stats.waited_max, grant.waited),
            "last_owner": grant.owner,
        }
    )


def with_holders(stats: LockStats | None, record: LockRecord | None) -> LockStats | None:
    """``stats`` with those who hold the lock now, whose grants are counted when they end."""
    if record is None:
        return stats
    for grant in record.grants:
        one = stats if stats is not None else LockStats(name=record.name, updated_at=grant.acquired_at)
        stats = _granted(one, grant)
    return stats
