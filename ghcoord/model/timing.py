"""Which ttl, poll interval and grace go together.

An owner renews at a third of its ttl and gives up at two thirds
(:mod:`ghcoord.model.lease`).  What is chosen freely must leave room for that:
it looks at the hub at least twice before a renewal is due, and what it runs has
ended, with its grace, between giving up and the end of the lease.
"""

from __future__ import annotations

import math

from ghcoord.errors import UsageError
from ghcoord.model.lease import GIVE_UP_AT, RENEW_AT, check_ttl

POLL_AT_MOST = RENEW_AT / 2
"""Part of the ttl that lies between two looks at the hub at most."""

GRACE_AT_MOST = 1 - GIVE_UP_AT
"""Part of the ttl that a task gets to end by itself, at most."""

DEFAULT_GRACE = 1.0
"""Seconds between asking a task's processes to end and ending them."""

RENEW_LATE = 0.4
"""Part of its ttl after which a worker renews where commits are scarce and ttls long: a quarter is left for tries."""

RENEW_LATE_SPREAD = 0.02
"""Random part of the ttl, either way, so that workers which started together do not renew together."""

_SLACK = 1e-9


def poll_for(ttl: float, poll: float | None, usual: float) -> float:
    """Seconds between looks at the hub: ``poll`` if it was chosen, else what is usual, less for a short ttl.

    Raises ``UsageError`` for one that does not go with ``ttl``.
    """
    check_ttl(ttl)
    if poll is None:
        return min(usual, ttl * POLL_AT_MOST)
    if poll <= 0:
        raise UsageError("the poll interval must be more than 0")
    _fits("a poll interval", poll, ttl, POLL_AT_MOST)
    return poll


def grace_for(ttl: float, grace: float | None) -> float:
    """Seconds between asking a task to end and ending it: ``grace``, else 1, less for a short ttl.

    Raises ``UsageError`` for one that does not go with ``ttl``.
    """
    check_ttl(ttl)
    if grace is None:
        return min(DEFAULT_GRACE, ttl * GRACE_AT_MOST)
    if grace < 0:
        raise UsageError("the grace must not be negative")
    _fits("a grace", grace, ttl, GRACE_AT_MOST)
    return grace


def _fits(what: str, given: float, ttl: float, most: float) -> None:
    if given <= ttl * most + _SLACK:
        return
    part = round(1 / most)
    longest, shortest = math.floor(ttl * most * 100) / 100, math.ceil(given * part * 100 - _SLACK) / 100
    raise UsageError(
        f"{what} of {given:g} s is too long for a ttl of {ttl:g} s: give at most {_exact(longest)} s "
        f"(1/{part} of the ttl), or a ttl of at least {_exact(shortest)} s"
    )


def _exact(seconds: float) -> str:
    return f"{seconds:.2f}".rstrip("0").rstrip(".")
