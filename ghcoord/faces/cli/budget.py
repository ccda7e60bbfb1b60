"""``ghcoord budget``: the limits of the hub's server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.errors import OutcomeUnknown, Throttled, Unavailable
from ghcoord.faces.budget_views import budget_view
from ghcoord.faces.cli.context import known_budget, open_hub, time_of_day
from ghcoord.faces.cli.output import fields, note, respond, say, table
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.store.budget.base import Report

NO_LIMITS = "the hub's server tells of no limits: nothing is counted"


def budget() -> None:
    """Show the limits of the hub's server: what is used and left, and how fast workers go because of them.

    Writes and pushes are counted by this machine's processes, the rest is told
    by the server. PLANNED is what ghcoord allows itself. The pace is that of
    each worker of your account, on all machines; a lease is how long the
    death of one may go unnoticed. While the server refuses or cannot be
    reached, what this machine knows is shown.

    Example:
      ghcoord budget
    """
    not_asked = None
    try:
        with open_hub(patience=0.0) as hub:
            report = hub.budget()
    except (Throttled, Unavailable, OutcomeUnknown) as error:
        report = known_budget()
        if report is None:
            raise
        not_asked = error.message
    respond(budget_view(report, not_asked), lambda: _show(report, not_asked))


def _show(report: Report | None, not_asked: str | None) -> None:
    if not_asked is not None:
        note(f"the hub was not asked, this is what this machine knows: {not_asked}")
    if report is None or not (report.usage or report.blocked_until):
        say(NO_LIMITS)
        return
    if report.usage:
        table(
            ("LIMIT", "USED", "OF", "LEFT", "PLANNED", "WHOLE AGAIN"),
            [
                (
                    one.name,
                    one.used,
                    one.limit,
                    max(0, one.limit - one.used),
                    one.planned,
                    time_of_day(one.resets_at) if one.resets_at is not None else None,
                )
                for one in report.usage
            ],
            keep=("LIMIT",),
            right=("USED", "OF", "LEFT", "PLANNED"),
        )
    pace = report.pace
    each = (
        f"a commit every {format_duration(round(pace.write_every, 1))}, a poll every "
        f"{format_duration(round(pace.poll_every, 1))}, a lease of {format_duration(pace.lease_ttl)}"
    )
    blocked = None
    if report.blocked_until is not None:
        blocked = f"until {time_of_day(report.blocked_until)}: {report.why}"
    fields(
        [
            ("account", report.account),
            ("workers", pace.workers),
            ("forecast", f"{report.forecast:.0f} writes an hour at the present rate"),
            ("pace", each),
            *(("slower" if not number else "", why) for number, why in enumerate(pace.stretched)),
            ("blocked", blocked),
        ]
    )
