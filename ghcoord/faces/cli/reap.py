"""``ghcoord worker reap``: what it would do, whether to do it, and doing it again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.errors import UsageError
from ghcoord.faces import views
from ghcoord.faces.cli.common import confirm
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import emit_line, note, respond, say, table

if TYPE_CHECKING:
    from ghcoord.coord.workers.reaper import Reaped
    from ghcoord.hub import Hub

SHOWN = 10
"""Workers that a preview names."""


def reap_one(worker_id: str, *, dry_run: bool, yes: bool) -> None:
    """Take from one dead worker what it holds."""
    with open_hub() as hub:
        taken = hub.workers.preview_recover(worker_id)
        held = f"{taken.tasks} tasks and {taken.locks} locks"
        if not dry_run:
            confirm(f"Take {held} from worker {worker_id!r}?", yes, unattended=True)
            taken = hub.workers.recover(worker_id)
            held = f"{taken.tasks} tasks and {taken.locks} locks"
    word = "would be recovered" if dry_run else "recovered"
    respond(views.recovered_view(worker_id, taken), lambda: say(f"{worker_id}: {held} {word}"))


def mark_stale(stale_after: float | None, *, dry_run: bool, yes: bool) -> None:
    """Set stale workers offline; what they hold stays theirs."""
    with open_hub() as hub:
        found = hub.workers.stale(stale_after)
        if not dry_run:
            if found:
                confirm(f"Set {len(found)} workers offline{_named(found)}?", yes, unattended=True)
            found = hub.workers.mark_stale(stale_after)
    what = "stale" if dry_run else "set offline"
    respond({"stale" if dry_run else "marked": found}, lambda: say(f"{len(found)} workers {what}{_named(found)}"))


def reap_all(stale_after: float | None, *, dry_run: bool, yes: bool) -> None:
    """Recover the dead and remove the long gone."""
    with open_hub() as hub:
        plan = hub.workers.preview_reap(stale_after)
        if dry_run:
            stale = hub.workers.stale()
            respond({"stale": stale, **views.reaped_view(plan)}, lambda: _show(stale, plan))
            return
        if plan.recovered or plan.removed:
            if not yes:
                _preview(plan)
            confirm("Go on?", yes, unattended=True)
        done = hub.workers.reap_now(stale_after)
    respond(views.reaped_view(done), lambda: say(done.summary))


def reap_again_and_again(every: float, stale_after: float | None) -> None:
    """Reap every so many seconds until interrupted, a line a pass; errors of the hub are said and lived through."""
    if every < 1:
        raise UsageError("--every takes at least 1s")
    with open_hub() as hub:
        log = _note_errors if invocation().json else lambda level, text: _line(hub, level, text)
        on_pass = (lambda done: _json_line(hub, done)) if invocation().json else None
        hub.workers.reaper(every, stale_after=stale_after, log=log, on_pass=on_pass).run()


def _line(hub: Hub, level: str, text: str) -> None:
    if level == "error":
        _note_errors(level, text)
    else:
        print(f"{views.iso(hub.now())} {text}", flush=True)


def _note_errors(level: str, text: str) -> None:
    if level == "error":
        note(f"error: {text}")


def _json_line(hub: Hub, done: Reaped) -> None:
    emit_line({"at": views.iso(hub.now()), **views.reaped_view(done)})


def _named(ids: list[str]) -> str:
    more = f", … {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f": {', '.join(ids[:SHOWN])}{more}" if ids else ""


def _rows(plan: Reaped) -> list[tuple[str, int, int, int, str]]:
    rows = []
    for worker_id in sorted({*plan.recovered, *plan.removed}):
        taken = plan.recovered.get(worker_id)
        locks, tasks, sessions = taken if taken is not None else (0, 0, 0)
        rows.append((worker_id, tasks, locks, sessions, "is removed" if worker_id in plan.removed else "goes offline"))
    return rows


def _show(stale: list[str], plan: Reaped) -> None:
    """What a dry run says."""
    say(f"{len(stale)} workers stale{_named(stale)}")
    rows = _rows(plan)
    if rows:
        table(
            ("WORKER", "TASKS", "LOCKS", "SESSIONS", "THEN IT"),
            rows,
            keep=("WORKER",),
            right=("TASKS", "LOCKS", "SESSIONS"),
        )


def _preview(plan: Reaped) -> None:
    """The first of those that it is about, on standard error."""
    rows = _rows(plan)
    note(f"{len(plan.recovered)} workers to recover, {len(plan.removed)} to remove:")
    for worker_id, tasks, locks, _, then in rows[:SHOWN]:
        note(f"  {worker_id}: {tasks} tasks and {locks} locks go back, it {then}")
    if len(rows) > SHOWN:
        note(f"  … {len(rows) - SHOWN} more")
