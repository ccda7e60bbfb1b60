"""``ghcoord doctor --repair``: what can be put right, shown first, then done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.faces.care_views import repair_view
from ghcoord.faces.cli.common import confirm
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import say
from ghcoord.faces.views import View
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.store.folder import Stray


def put_right(where: str, *, dry_run: bool, yes: bool) -> list[View]:
    """Show the repairs of the hub at ``where``, ask, and carry them out; returns them.

    With ``dry_run`` nothing is asked and nothing changed.
    """
    from ghcoord.bootstrap import inspect_folder, tidy_folder

    with open_hub() as hub:
        strays = [stray for stray in inspect_folder(where).strays if stray.removable]
        planned = [repair_view(one) for one in hub.repair(dry_run=True)] + [_removal(stray) for stray in strays]
        if not planned:
            _tell("nothing to repair", [])
            return []
        _tell("would repair" if dry_run else "to be repaired", planned)
        if dry_run:
            return [{**one, "done": False} for one in planned]
        confirm(f"Carry out {len(planned)} repair{'s' if len(planned) > 1 else ''}?", yes)
        done = [repair_view(one) for one in hub.repair()]
        tidy_folder(strays)
        done += [_removal(stray) for stray in strays]
        _tell("repaired", done)
        return [{**one, "done": True} for one in done]


def _removal(stray: Stray) -> View:
    why = f"{stray.what} {format_duration(stray.age)} ago"
    return {"check": "left over", "space": None, "what": f"{stray.path} removed", "why": why}


def _tell(head: str, repairs: list[View]) -> None:
    if invocation().json:
        return
    say(f"{head}:" if repairs else head)
    for one in repairs:
        place = f"{one['space']}: " if one["space"] else ""
        say(f"  {place}{one['what']} ({one['why']})")
