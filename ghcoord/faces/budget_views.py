"""A server's limits as a plain dictionary with stable keys; see :mod:`ghcoord.faces.views`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ghcoord.faces.views import View, iso

if TYPE_CHECKING:
    from ghcoord.store.budget.base import Report, Usage


def budget_view(report: Report | None, not_asked: str | None = None) -> View:
    """A report; ``None`` of a hub without limits. ``not_asked`` says why the counts are only this machine's."""
    if report is None:
        return {
            "limited": False,
            "account": None,
            "usage": [],
            "forecast": None,
            "pace": None,
            "blocked_until": None,
            "why": None,
            "refusals": 0,
            "not_asked": not_asked,
        }
    pace = report.pace
    return {
        "limited": bool(report.usage),
        "account": report.account,
        "usage": [_usage(one) for one in report.usage],
        "forecast": round(report.forecast, 1),
        "pace": {
            "write_every": round(pace.write_every, 1),
            "poll_every": round(pace.poll_every, 1),
            "lease_ttl": round(pace.lease_ttl, 1),
            "workers": pace.workers,
            "stretched": list(pace.stretched),
        },
        "blocked_until": _moment(report.blocked_until),
        "why": report.why or None,
        "refusals": report.details.get("refusals", 0),
        "not_asked": not_asked,
    }


def _usage(one: Usage) -> View:
    return {
        "name": one.name,
        "used": one.used,
        "limit": one.limit,
        "left": max(0, one.limit - one.used),
        "planned": one.planned,
        "window": one.window,
        "resets_at": _moment(one.resets_at),
        "source": one.source,
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else iso(datetime.fromtimestamp(seconds, UTC))
