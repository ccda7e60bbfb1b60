"""What a command says on standard error when it waits for something that nobody will do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ghcoord.faces.cli.output import note

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.requirements import Need, Offer
    from ghcoord.model.task import Task

BUILT_IN = (
    *("echo", "exec", "run.python", "shell", "test.run", "pkg.install"),
    *("fs.delete", "fs.list", "fs.move", "fs.read", "fs.write"),
)
"""Tools that ``ghcoord worker start`` offers for tasks."""


def offers(hub: Hub) -> list[Offer]:
    """What each worker offers that is alive and takes tasks."""
    stale = set(hub.workers.stale())
    alive = (one for one in hub.workers.list(("active", "busy")) if one.id not in stale and not one.drain_requested)
    return [one.offer for one in alive]


def unserved(needs: Iterable[Need], present: Sequence[Offer]) -> list[Need]:
    """Those of ``needs`` that no worker meets."""
    return [need for need in needs if not any(need.met_by(offer) for offer in present)]


def start_for(need: Need, present: Sequence[Offer]) -> str:
    """How to get a worker that meets ``need``."""
    if any(need.tool in offer.tools for offer in present):
        return "start one that does, or see what there is: 'ghcoord worker list'"
    return "start one with 'ghcoord worker start'" if need.tool in BUILT_IN else "start the program that registers it"


def in_words(need: Need) -> str:
    """``'echo' on 8 cores with gpu``."""
    text = repr(need.tool)
    if need.type != need.tool:
        text += f" as {need.type!r}"
    size = [f"{need.cpu_cores} cores"] if need.cpu_cores else []
    size += [f"{need.memory_mb} MiB"] if need.memory_mb else []
    if size:
        text += f" on {', '.join(size)}"
    if need.tier != "none":
        text += f" in a {need.tier} sandbox"
    return f"{text} with {', '.join(need.capabilities)}" if need.capabilities else text


def say_unserved(hub: Hub, tasks: Iterable[Task]) -> None:
    """One line for each need of ``tasks`` that wait and that no living worker meets."""
    waiting = {task.need for task in tasks if task.state in ("queued", "failed")}
    if not waiting:
        return
    present = offers(hub)
    for need in sorted(unserved(waiting, present), key=lambda need: (*need[:5], need.tier)):
        note(f"no worker that runs {in_words(need)} is alive: {start_for(need, present)}")
