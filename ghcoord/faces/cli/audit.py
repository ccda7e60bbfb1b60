"""``ghcoord audit``: who did what, when, and since when a record says what it says."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import UsageError
from ghcoord.faces.audit_views import audit_view, blame_view, iso_seconds, purge_view
from ghcoord.faces.cli.common import confirm, duration, group, number, one_of, verb
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.moments import parse_time
from ghcoord.faces.cli.output import clean, emit_line, note, respond, say, table, to_json
from ghcoord.faces.phrases import phrase, shorten
from ghcoord.faces.views import iso
from ghcoord.tracing import trace_id_of

if TYPE_CHECKING:
    from ghcoord.coord.audit.blame import Blame, Origin
    from ghcoord.coord.audit.calls import Purge
    from ghcoord.coord.audit.log import AuditLog
    from ghcoord.coord.audit.query import AuditEvent
    from ghcoord.hub import Hub

app = group("See who did what, from the hub's history and the recorded tool calls.")

DEFAULT_LIMIT = 100
FOLLOWED = 10
"""Events shown before those that are followed."""

LONGEST = 60
"""Characters of a value in the table of ``blame``."""

RECORDS = ("task", "worker", "lock", "key", "schedule")


def _option(name: str, metavar: str, help: str) -> Any:
    return typer.Option(f"--{name}", metavar=metavar, help=help)


@verb(app, "log")
def log(
    task: Annotated[str | None, _option("task", "ID", "About this task.")] = None,
    worker: Annotated[str | None, _option("worker", "ID", "About this worker.")] = None,
    lock: Annotated[str | None, _option("lock", "NAME", "About this lock.")] = None,
    key: Annotated[str | None, _option("key", "KEY", "About this key, in --namespace or any.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", metavar="NS", help="In this namespace.")] = None,
    schedule: Annotated[str | None, _option("schedule", "ID", "About this schedule.")] = None,
    actor: Annotated[str | None, _option("actor", "WHO", "Done by this one.")] = None,
    kind: Annotated[
        str | None, _option("kind", "KIND", "Of this kind: its beginning, or a pattern with * and ?.")
    ] = None,
    session: Annotated[str | None, _option("session", "S", "Tool calls of this session.")] = None,
    tool: Annotated[str | None, _option("tool", "TOOL", "Calls and tasks of this tool.")] = None,
    user: Annotated[str | None, _option("user", "U", "Tool calls of this user.")] = None,
    workspace: Annotated[str | None, _option("workspace", "W", "Tool calls in this workspace.")] = None,
    trace: Annotated[str | None, _option("trace", "T", "Tool calls and tasks of this trace id or traceparent.")] = None,
    since: Annotated[str | None, _option("since", "WHEN", "From then on: 2h for ago, a time, or a revision.")] = None,
    until: Annotated[str | None, _option("until", "WHEN", "Up to then.")] = None,
    limit: Annotated[
        int | None, number("--limit", least=1, help=f"The newest N; default {DEFAULT_LIMIT}, {FOLLOWED} with --follow.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay and print what happens; Ctrl-C ends it.")
    ] = False,
) -> None:
    """Show what happened, newest first: in every space, by hand, and recorded tool calls.

    All conditions must hold. People's commits are of the kind 'commit by hand'.
    Renewals of leases are left out unless --kind names them exactly. With
    --follow the newest stands last, and --json prints a line for each.

    Example:
      ghcoord audit log --since 2h --kind lock
      ghcoord audit log --task t0123456789ab --json
    """
    if follow and until is not None:
        raise UsageError("--follow has no end: leave --until out")
    filters: dict[str, Any] = {
        "task": task,
        "worker": worker,
        "lock": lock,
        "key": key,
        "namespace": namespace,
        "schedule": schedule,
        "actor": actor,
        "kind": kind,
        "session": session,
        "tool": tool,
        "user": user,
        "workspace": workspace,
        "trace": trace and (trace_id_of(trace) or trace),
    }
    with open_hub() as hub:
        now = hub.now()
        filters["since"] = parse_time(since, now, "--since")
        if follow:
            _follow(hub, limit if limit is not None or since is not None else FOLLOWED, filters)
            return
        most = DEFAULT_LIMIT if limit is None else limit
        found = hub.audit.log(limit=most + 1, until=parse_time(until, now, "--until"), **filters)
        events = list(islice(found, most))
        respond([audit_view(event) for event in events], lambda: _show(events))
        _say_end(found, most)


def _show(events: list[AuditEvent]) -> None:
    rows = [(_clock(iso(event.at)), event.by, _said(event)) for event in events]
    table(("TIME", "WHO", "WHAT"), rows, keep=("TIME",), empty="nothing")


def _say_end(found: AuditLog, most: int) -> None:
    """Say on standard error why there is no more."""
    if next(found, None) is not None:
        note(f"these are the newest {most}: --limit shows more")
        return
    for space, at in sorted(found.cut.items()):
        note(f"the history of {space} before {iso_seconds(at)} was removed")


def _follow(hub: Hub, last: int | None, filters: dict[str, Any]) -> None:
    try:
        for event in hub.audit.follow(last=last, **filters):
            if invocation().json:
                emit_line(audit_view(event))
            else:
                print(clean(f"{_clock(iso(event.at))}  {event.by}  {_said(event)}"), flush=True)
    except KeyboardInterrupt:
        return


def _clock(time: str) -> str:
    return f"{time[:19]}Z"


def _said(event: AuditEvent) -> str:
    """One line for people."""
    fields = event.fields
    if event.kind == "commit by hand":
        paths = fields.get("paths")
        changed = ", ".join(map(str, paths)) if isinstance(paths, list) else "?"
        return f"by hand: {fields.get('summary')} ({changed}{' …' if fields.get('more') else ''})"
    if "tool_name" not in fields:
        where = f" in {event.namespace}" if event.namespace not in (None, "global") else ""
        return phrase(event.kind, fields) + where
    result, error = fields.get("result"), fields.get("error_msg")
    ended = "failed" if error else "called"
    if isinstance(result, dict):
        error = error or result.get("error")
        ended = "succeeded" if result.get("success") is True else "failed"
    names = ("user", "session", "workspace", "trace")
    about = ", ".join(f"{name} {fields[f'{name}_id']}" for name in names if fields.get(f"{name}_id"))
    why = f": {error}" if error and ended == "failed" else ""
    return f"{fields['tool_name']} {ended}{about and f' ({about})'}{why}"


@verb(app, "blame")
def blame(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of {', '.join(RECORDS)}.", parser=one_of(RECORDS))],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The record's id, name or key.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="The key's namespace.")] = "global",
) -> None:
    """Show who last changed each field of a record, when, and by what.

    For a record that is gone: its last state, and who removed it. Exits 3 when
    the history knows of none.

    Example:
      ghcoord audit blame task t0123456789ab
      ghcoord audit blame key color --namespace global
    """
    with open_hub() as hub:
        found = hub.audit.blame(kind, name, namespace)
    respond(blame_view(found), lambda: _print_blame(found))


def _print_blame(found: Blame) -> None:
    gone = found.removed
    if gone is not None:
        say(f"removed {_clock(iso(gone.at))} by {gone.by or '?'} ({_what(gone)}); before that:")
    table(
        ("FIELD", "VALUE", "WHEN", "WHO", "WHAT"),
        [
            (
                line.field,
                shorten(line.value if isinstance(line.value, str) else to_json(line.value, None), LONGEST),
                f"{'' if line.origin.commit else '≤ '}{_clock(iso(line.origin.at))}",
                line.origin.by or "?",
                _what(line.origin),
            )
            for line in found.lines
        ],
        empty="no fields",
    )


def _what(origin: Origin) -> str:
    return f"{origin.kind}: {origin.summary}" if origin.kind == "commit by hand" else origin.kind


@verb(app, "purge")
def purge(
    older_than: Annotated[
        float | None, duration("--older-than", help="Entries older than this; default: the hub's retention.audit.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove old recorded tool calls, after showing what that would be.

    What commits tell of tasks, locks and the rest is part of the history: that
    ends with 'ghcoord gc'.

    Example:
      ghcoord audit purge --older-than 30d --yes
    """
    with open_hub() as hub:
        plan = hub.audit.purge(older_than, dry_run=True)
        if not dry_run and plan.entries:
            if not yes:
                _preview(plan)
            confirm(f"Remove {plan.entries} audit entries in {plan.files} files?", yes)
            # The moment that was shown: what has become old enough since then stays.
            plan = hub.audit.purge(max(0.0, (hub.now() - plan.before).total_seconds()))
    word = "would be removed" if dry_run else "removed"

    def plain() -> None:
        if dry_run:
            _preview(plan)
        say(f"{plan.entries} entries in {plan.files} files {word}")

    respond({**purge_view(plan), "dry_run": dry_run}, plain)


def _preview(plan: Purge) -> None:
    for call in plan.first:
        note(f"  {_clock(iso_seconds(call.at))}  {call.kind}  {call.fields.get('tool_name', '')}")
    if plan.entries > len(plan.first):
        note(f"  … {plan.entries - len(plan.first)} more, up to {_clock(iso(plan.before))}")
