"""``ghcoord gc``, ``export`` and ``import``: how far back a hub's history goes, and the hub as one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghcoord.faces.care_views import gc_view
from ghcoord.faces.cli.common import confirm, duration
from ghcoord.faces.cli.context import hub_url, invocation, open_hub, settings
from ghcoord.faces.cli.output import clean, console, fields, respond, say
from ghcoord.units import format_duration, format_size

if TYPE_CHECKING:
    from ghcoord.coord.care.care import GcReport
    from ghcoord.store.base import Tell

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

EVERY = 997
"""Objects between two signs of life; a prime, so that all digits of the number move."""


@contextmanager
def progress() -> Iterator[Tell]:
    """Show on a terminal how far long work is; say nothing elsewhere."""
    screen = None if invocation().json else console(stderr=True)
    if screen is None or not screen.is_terminal:
        yield lambda what, count: None
        return
    from rich.text import Text

    with screen.status(Text("looking")) as status:

        def tell(what: str, count: int) -> None:
            if count % EVERY == 0:
                status.update(Text(clean(f"{what} {count:,}" if count else what)))

        yield tell


def gc(
    retention: Annotated[
        float | None,
        duration("--retention", help="How much history stays; default: the hub's setting retention.history, 30d."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    yes: Yes = False,
) -> None:
    """Drop old history and what only it needed, and compress the rest.

    Records, locks, tokens and revisions stay what they are, and others may use
    the hub meanwhile. What goes is the past: git log, 'audit log' and 'status
    --at' reach back to the retention from then on. The last minute always
    stays, and on a server the last hour.

    Example:
      ghcoord gc --dry-run
      ghcoord gc --retention 7d --yes
    """
    with open_hub() as hub:
        kept = hub.config.get("retention.history") if retention is None else retention
        if not dry_run:
            confirm(f"History older than {format_duration(kept)} goes for good. Go on?", yes)
        with progress() as tell:
            report = hub.gc(retention, dry_run=dry_run, tell=tell)
    respond(gc_view(report), lambda: _print(report))


def _print(report: GcReport) -> None:
    would = "would stay" if report.dry_run else "stay"
    saved = report.bytes_before - report.bytes_after
    fields(
        [
            (
                "commits",
                f"{report.commits:,} {would}, {report.commits_cut:,} {'would go' if report.dry_run else 'went'}",
            ),
            ("objects", f"{report.objects:,} {would}"),
            ("size", f"{format_size(report.bytes_before)} → {format_size(report.bytes_after)}" if saved > 0 else None),
            ("since", min(report.since.values()).isoformat(timespec="seconds") if report.since else None),
            ("postponed", f"{report.postponed}: what is not needed goes next time" if report.postponed else None),
        ]
    )


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The bundle to write.")],
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Only the present state, without the commits that led to it.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Write the whole hub into one file, a Git bundle.

    'ghcoord import' makes a hub of it, 'git clone FILE' a clone. Others may use
    the hub meanwhile: the file holds one moment of it.

    Example:
      ghcoord export hub.bundle
      ghcoord export --no-history small.bundle
    """
    target = Path(file).expanduser()
    if os.path.lexists(target):
        confirm(f"{target} exists. Replace it?", yes)
    with open_hub() as hub, progress() as tell:
        made = hub.export(target, history=not no_history, tell=tell)
    view = {
        "file": str(target),
        "spaces": dict(made.heads),
        "commits": made.commits,
        "objects": made.objects,
        "bytes": made.size,
    }
    respond(view, lambda: say(f"{target}: {made.commits:,} commits, {format_size(made.size)}"))


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A bundle that 'ghcoord export' wrote.")],
    new_id: Annotated[
        bool, typer.Option("--new-id", help="Make it a hub of its own, not the same one in another place.")
    ] = False,
) -> None:
    """Make a hub of a bundle, in a new folder named by --hub.

    Every object is checked before the hub is there; on failure nothing is left
    behind.

    Example:
      ghcoord import hub.bundle --hub ./restored.git
    """
    from ghcoord.bootstrap import import_hub

    with progress() as tell:
        hub = import_hub(file, hub_url(), settings(), new_id=new_id, tell=tell)
    with hub:
        heads = hub.heads()
    view = {"hub": hub.url, "id": hub.id, "spaces": heads, "migrated_from": hub.migrated_from}
    respond(view, lambda: say(f"made a hub at {hub.url}, id {hub.id}, of {len(heads)} spaces"))
