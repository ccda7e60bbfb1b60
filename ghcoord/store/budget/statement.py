"""What a budget reports to people, out of its counts."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from ghcoord.store.budget.base import Pace, Report, Usage
from ghcoord.store.budget.ledger import State
from ghcoord.store.budget.limits import HOUR, MINUTE, Limits
from ghcoord.store.budget.plan import POLL_PART, most, planned_writes

RECENT = 600.0
"""Seconds by which the present rate of writes is told."""

_RESOURCES = {"core": "requests an hour", "graphql": "GraphQL points an hour"}


def statement(
    account: str, limits: Limits, state: State, pace: Pace, *, now: float, wall: float, wanted: int | None
) -> Report:
    """The report at the moment ``now`` of the boot clock, which is ``wall`` since the epoch."""
    sent = state.writes if limits.writes_per_hour is not None else [*state.writes, *state.pushes]
    blocked = state.blocked_until > now
    return Report(
        account=account,
        usage=tuple(_usage(limits, state, now, wall - now, wanted)),
        pace=pace,
        forecast=_within(sorted(sent), now, RECENT) * HOUR / RECENT,
        blocked_until=state.blocked_until - now + wall if blocked else None,
        why=state.why if blocked else "",
        details={"refusals": len(state.refusals), "workers_here": len(state.workers)},
    )


def _usage(limits: Limits, state: State, now: float, offset: float, wanted: int | None) -> Iterator[Usage]:
    planned = planned_writes(limits, wanted)
    pushes = limits.pushes_per_minute if limits.writes_per_hour is None or state.pushes else None
    counted = (
        ("writes a minute", limits.writes_per_minute, state.writes, MINUTE, None),
        ("writes an hour", limits.writes_per_hour, state.writes, HOUR, planned),
        ("pushes a minute", pushes, state.pushes, MINUTE, None),
    )
    for name, limit, times, window, plan in counted:
        if limit is not None:
            used = _within(times, now, window)
            whole = times[-1] + window + offset if used else None
            yield Usage(name, used, limit, plan or most(limit), window, whole, "counted")
    for resource, name in _RESOURCES.items():
        told = state.primary.get(resource)
        if told is not None:
            used = max(0, told.limit - told.left)
            yield Usage(name, used, told.limit, int(told.limit * POLL_PART), HOUR, told.resets + offset, "server")


def _within(times: list[float], now: float, window: float) -> int:
    return len(times) - bisect.bisect_right(times, now - window)
