"""What was found out about the way to a hub, for ``ghcoord doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ghcoord.clock import Runtime
from ghcoord.errors import GhcoordError
from ghcoord.store.budget.base import Budget

CLOCK_WARNING = 5.0
"""Seconds that this machine's clock may be off before it is worth a word."""

ALMOST = 0.2
"""Share of a limit below which little is left."""


class Observation(NamedTuple):
    """One thing found; ``level`` is ``ok``, ``warning``, or ``error`` when the hub cannot be used."""

    check: str
    level: Literal["ok", "warning", "error"]
    message: str
    fix: str = ""
    details: Mapping[str, Any] = {}


def failed(check: str, error: GhcoordError) -> Observation:
    """An error as an observation; its fix stands after the last colon."""
    before, _, fix = error.message.rpartition(": ")
    return Observation(check, "error", before or fix, fix if before else "", {"code": error.code})


def clock(server_time: float, runtime: Runtime) -> Observation:
    """How far this machine's clock is from the server's."""
    offset = round(runtime.now() - server_time, 1)
    details = {"offset": offset}
    if abs(offset) <= CLOCK_WARNING:
        return Observation("clock", "ok", f"{abs(offset):g} s from the server's", details=details)
    side = "ahead of" if offset > 0 else "behind"
    return Observation(
        "clock",
        "warning",
        f"this machine's clock is {abs(offset):g} s {side} the server's; leases go by the server's",
        "let NTP set it: the times in logs and an app's tokens go by it",
        details,
    )


def limits(budget: Budget, runtime: Runtime) -> Iterator[Observation]:
    """What is used of the server's limits, and whether it refuses just now."""
    report = budget.report()
    for usage in report.usage:
        text = f"{usage.name}: {usage.used:,} of {usage.limit:,} used"
        details = {"name": usage.name, "used": usage.used, "limit": usage.limit}
        if usage.limit and usage.limit - usage.used < ALMOST * usage.limit:
            yield Observation("budget", "warning", text, "'ghcoord budget' tells what is stretched, and why", details)
        else:
            yield Observation("budget", "ok", text, details=details)
    if report.blocked_until is not None and report.blocked_until > runtime.now():
        seconds = round(report.blocked_until - runtime.now())
        text = f"no request for {seconds} s more: {report.why}"
        yield Observation("budget", "warning", text, "wait: it goes on by itself")
