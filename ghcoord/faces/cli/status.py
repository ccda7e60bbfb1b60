"""``ghcoord status``: one look at the hub, or a view to leave open."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.errors import UsageError
from ghcoord.faces import overview
from ghcoord.faces.cli.common import duration
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.moments import parse_when
from ghcoord.faces.cli.output import console, emit_line, note, respond
from ghcoord.faces.live import Watch, can_redraw
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.faces.views import View
    from ghcoord.hub import Hub

DEFAULT_INTERVAL = 1.0
SHORTEST_INTERVAL = 0.1


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and follow what happens; Ctrl-C ends it.")] = False,
    interval: Annotated[
        float | None, duration("--interval", help="With --watch: time between looks; default 1s.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="WHEN", help="As it was then: a time, 10m for ago, a revision, a commit."),
    ] = None,
) -> None:
    """Show workers, queue, locks, recent events, and how long recovery of a dead worker takes.

    --watch redraws the terminal in place, and without a terminal prints the
    state once per change; with --json one line each. It survives a hub that
    cannot be reached for a while and says so. Ending it with Ctrl-C is success.

    --at shows the hub of the past, from its history: every space at its last
    commit then, leases with the time that they had left. It exits 3 for what
    was before the hub, or before what 'ghcoord gc' has left.

    Example:
      ghcoord status --watch
      ghcoord status --json
      ghcoord status --at 0s
    """
    if interval is not None and not watch:
        raise UsageError("--interval goes with --watch: add --watch")
    if interval is not None and interval < SHORTEST_INTERVAL:
        raise UsageError(f"an interval under {SHORTEST_INTERVAL:g}s only costs: give a longer one")
    if at is not None and watch:
        raise UsageError("--at shows one moment: leave --watch out")
    with open_hub() as hub:
        if at is not None:
            _show_past(hub, at)
        elif watch:
            _follow(hub, interval or DEFAULT_INTERVAL)
        else:
            view = overview.gather(hub)
            respond(view, lambda: _print(view))


def _show_past(hub: Hub, at: str) -> None:
    now = hub.now()
    with hub.at(parse_when(at, now, "--at")) as past:
        view = overview.gather(past)
        age = format_duration(max(0, round((now - past.now()).total_seconds())))
    respond(view, lambda: _print(view, f"as it was {age} ago, {view['at']}"))


def _print(view: View, past: str = "") -> None:
    from ghcoord.faces.dashboard import Dashboard

    screen = console()
    # One line less: the prompt comes back below.
    screen.print(Dashboard(view, past=past, height=screen.height - 1 if screen.is_terminal else 0))


def _follow(hub: Hub, interval: float) -> None:
    # A view that is ended from outside leaves the terminal as it was, too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Watch(hub, interval) as looking:
            if not invocation().json and can_redraw(console()):
                _draw(hub, looking, interval)
            else:
                _print_changes(hub, looking)
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def _draw(hub: Hub, looking: Watch, interval: float) -> None:
    from rich.live import Live

    from ghcoord.faces.dashboard import Dashboard

    with Live(console=console(), screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            view, trouble = looking.now()
            live.update(Dashboard(view, trouble=trouble), refresh=True)
            looking.wait(interval)


def _print_changes(hub: Hub, looking: Watch) -> None:
    said = ""
    first = True
    for view, trouble in looking.changes():
        if trouble != said:
            said = trouble
            note(trouble or "the hub answers again")
        if view is None:
            continue
        if invocation().json:
            emit_line(view)
            continue
        if not first:
            print("-" * 79)
        first = False
        _print(view)
        sys.stdout.flush()
