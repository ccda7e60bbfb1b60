"""How fast to go so that no limit is ever hit: pure arithmetic.

An hour's writes are divided by the workers that share the account, and each
machine counts its own part of them.  A worker with much of its part left
commits at once; the less is left, the longer it waits, so that the rest lasts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ghcoord.store.budget.base import Pace
from ghcoord.store.budget.limits import HOUR, MINUTE, Limits
from ghcoord.units import format_duration

PLANNED_PART = 0.5
"""Part of the hourly writes that is planned for; the rest is for what is not planned, and for other programs."""

IDLE_PART = 0.96
"""Part of the planned writes that workers without work may spend on renewing their leases."""

RENEWALS = 3
"""Renewals in one ttl (:mod:`ghcoord.model.lease`)."""

SHORTEST_TTL = 60.0
"""Seconds of a lease at a server with limits, however few share them."""

QUICK_PART, SLOW_PART = 0.25, 0.75
"""Parts of a share: below the first it is spent at once, beyond the second as slowly as the rest demands."""

HORIZON = 1200.0
"""Seconds for which the rest of a share shall last. What is steadily spent is then three quarters of the share."""

SLOWEST = 2.0
"""Times the even interval that a worker waits at most: it commits before two thirds of its lease are over."""

BURST_PART = 0.5
"""Part of a minute's limit that workers use who cannot see each other; twice as many may fall into one minute."""

POLL_PER_WORKER = 1.5
"""Seconds between the polls of all that share an account."""

POLL_PART = 0.5
"""Part of what is left of a primary limit that polls may take, should each of them bring news."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is known: ``workers`` share the account, ``here`` of them on this machine.

    ``used`` writes (or pushes) were sent from here in the last hour and
    ``refusals`` came.  ``left``: for each primary limit what is left of it, and
    for how many seconds.
    """

    workers: int = 1
    here: int = 1
    used: int = 0
    refusals: int = 0
    left: tuple[tuple[int, float], ...] = ()


def most(limit: int) -> int:
    """What is sent of ``limit`` in its window at most: a little less, as the server's window is not quite ours."""
    return limit - limit // 50


def planned_writes(limits: Limits, wanted: int | None) -> int | None:
    """Commits an hour to plan for: ``wanted`` as far as the limit allows, else half of it; ``None`` without one."""
    hourly = limits.writes_per_hour
    if hourly is None and limits.pushes_per_minute is not None:
        hourly = round(limits.pushes_per_minute * HOUR / MINUTE)
    if hourly is None:
        return wanted
    return max(1, min(most(hourly), wanted if wanted is not None else int(hourly * PLANNED_PART)))


def plan(limits: Limits, load: Load, wanted: int | None = None) -> Pace:
    """The pace of one worker; all zeros where nothing is limited. ``wanted``: commits an hour, as was set."""
    workers = max(1, load.workers, load.here)
    here = max(1, load.here)
    poll, short = _poll_every(limits, workers, load.left)
    planned = planned_writes(limits, wanted)
    if planned is None:
        return Pace(0.0, poll, 0.0, workers, tuple(_say_polls(poll, workers, short)))
    even = HOUR * workers / planned
    fastest = _fastest(limits, workers, here)
    slowest = max(fastest, SLOWEST * even)
    share = planned * here / workers
    spent = 1.0 if load.refusals else min(1.0, max(0.0, (load.used / share - QUICK_PART) / (SLOW_PART - QUICK_PART)))
    left = share - load.used
    lasting = min(slowest, max(fastest, HORIZON * here / left if left > 0 else slowest))
    if load.refusals:
        lasting = max(lasting, min(slowest, even))
    write = fastest + spent * (lasting - fastest)
    lease = max(SHORTEST_TTL, round(RENEWALS * even / IDLE_PART, 3))
    words = [
        *_say_writes(write, fastest, load, planned, workers),
        *_say_polls(poll, workers, short),
        *_say_leases(lease, planned, workers),
    ]
    return Pace(write, poll, lease, workers, tuple(words))


def _fastest(limits: Limits, workers: int, here: int) -> float:
    """Seconds between two commits of a worker that has all of its share left."""
    quickest = max(1.0, limits.write_gap)
    if workers <= here:
        return quickest  # all of them are counted here: they take turns
    if limits.writes_per_minute is not None:
        return max(quickest, MINUTE / (limits.writes_per_minute * BURST_PART) * workers)
    if limits.pushes_per_minute is not None:
        return max(quickest, MINUTE / limits.pushes_per_minute * workers)  # recommended, not enforced
    return quickest


def _poll_every(limits: Limits, workers: int, left: Iterable[tuple[int, float]]) -> tuple[float, int | None]:
    """Seconds between polls, and what is left of the primary limit that stretches them."""
    usual = POLL_PER_WORKER * workers if limits.reads_per_hour or planned_writes(limits, None) else 0.0
    told = list(left)
    if not told and limits.reads_per_hour is not None:
        told = [(limits.reads_per_hour, HOUR)]
    found, short = usual, None
    for rest, seconds in told:
        needed = min(max(seconds, usual), workers * seconds / max(rest * POLL_PART, 1.0))
        if needed > found:
            found, short = needed, rest
    return found, short


def _say_writes(write: float, fastest: float, load: Load, planned: int, workers: int) -> Iterable[str]:
    every = f"commits every {format_duration(round(write, 1))}"
    if load.refusals:
        times = "once" if load.refusals == 1 else f"{load.refusals} times"
        yield f"{every}: the server refused {times} within an hour"
    elif write > fastest * 1.05:
        shared = f" for {workers} workers" if workers > 1 else ""
        yield f"{every}: {load.used} sent in an hour, {planned} planned{shared}"
    elif fastest > 2.0:
        yield f"{every}: {workers} workers share the limits"


def _say_polls(poll: float, workers: int, short: int | None) -> Iterable[str]:
    every = f"polls every {format_duration(round(poll, 1))}"
    if short is not None:
        yield f"{every}: {short} requests are left of the hourly limit"
    elif workers > 1:
        yield f"{every}: {workers} workers share the limits"


def _say_leases(lease: float, planned: int, workers: int) -> Iterable[str]:
    if lease > SHORTEST_TTL:
        each = f"{workers} workers renew theirs" if workers > 1 else "a worker renews its own"
        yield f"leases last {format_duration(lease)}: {each} with {planned} writes an hour"
