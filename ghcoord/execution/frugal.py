"""What a daemon does next where commits are scarce, as a pure function.

It commits when it must renew, when results have gathered for long enough, or
when it has run out of work and there is more.  It looks at the hub only when a
slot is free: who has enough in hand does not even poll.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ghcoord.execution.rhythm import BURST


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand for a daemon; times by the monotonic clock, in seconds.

    ``results`` and ``returned`` wait to be reported; ``free`` slots have
    nothing to run, and ``wants`` tells whether more may be leased for them.
    ``queued`` tasks waited for a worker when it last looked.  ``renew_at``,
    ``write_at``, ``retry_at``, ``look_at`` and ``due_at`` are when the next of
    each may or must be; ``credit`` tells when so many commits may be made.
    """

    now: float
    busy: bool
    results: bool
    returned: bool
    free: bool
    wants: bool
    draining: bool
    queued: bool
    renew_at: float
    write_at: float
    retry_at: float
    look_at: float
    due_at: float | None
    credit_at: Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Next:
    """``commit`` now, or ``look`` whether there is work, or ``tend`` to what is due; else wait until ``at``."""

    commit: bool
    look: bool
    due: bool
    at: float


def decide(s: Standing) -> Next:
    """What is next."""
    needs = s.free and s.wants
    commits = [s.renew_at]
    if s.results or s.returned:
        commits.append(_report_at(s, needs))
    looks = [max(s.look_at, s.credit_at(1) if s.busy else s.credit_at(1 - BURST))] if needs and not s.results else []
    dues = [] if s.due_at is None else [max(s.due_at, s.credit_at(1) if s.busy else s.credit_at(0))]
    commit, look, due = (any(max(at, s.retry_at) <= s.now for at in times) for times in (commits, looks, dues))
    return Next(commit, look, due, max(s.retry_at, min([*commits, *looks, *dues])))


def _report_at(s: Standing, needs: bool) -> float:
    """When what there is to report is committed."""
    if not s.busy:
        if s.draining or (s.queued and s.wants):
            return s.credit_at(1 - BURST) if not s.draining else s.now
        return s.credit_at(1)
    return min(s.write_at, s.credit_at(1)) if needs or s.returned else s.write_at
