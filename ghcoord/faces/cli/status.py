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
from ghcoord.faces.cli.output import console, emit_line, note, respond
from ghcoord.faces.live import Watch, can_redraw

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
) -> None:
    """Show workers, queue, locks, recent events, and how long recovery of a dead worker takes.

    --watch redraws the terminal in place, and without a terminal prints the
    state once per change; with --json one line each. It survives a hub that
    cannot be reached for a while and says so. Ending it with Ctrl-C is success.

    Example:
      ghcoord status --watch
      ghcoord status --json
    """
    if interval is not None and not watch:
        raise UsageError("--interval goes with --watch: add --watch")
    if interval is not None and interval < SHORTEST_INTERVAL:
        raise UsageError(f"an interval under {SHORTEST_INTERVAL:g}s only costs: give a longer one")
    with open_hub() as hub:
        if watch:
            _follow(hub, interval or DEFAULT_INTERVAL)
        else:
            view = overview.gather(hub)
            respond(view, lambda: _print(view))


def _print(view: View) -> None:
    from ghcoord.faces.dashboard import Dashboard

    screen = console()
    # One line less: the prompt comes back below.
    screen.print(Dashboard(view, height=screen.height - 1 if screen.is_terminal else 0))


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
