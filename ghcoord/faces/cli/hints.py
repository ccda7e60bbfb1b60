"""What a command says on standard error when it waits for something that nobody will do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ghcoord.faces.cli.output import note

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.task import Task

BUILT_IN = ("echo", "run.python", "shell")
"""Tools that ``ghcoord worker start`` offers."""


def served(hub: Hub) -> set[str]:
    """The tools of all workers that are alive and take tasks."""
    stale = set(hub.workers.stale())
    alive = (one for one in hub.workers.list(("active", "busy")) if one.id not in stale and not one.drain_requested)
    return {tool for one in alive for tool in one.capabilities.supported_task_types}


def start_for(tool: str) -> str:
    """How to get a worker that runs ``tool``."""
    return "start one with 'ghcoord worker start'" if tool in BUILT_IN else "start the program that registers it"


def say_unserved(hub: Hub, tasks: Iterable[Task]) -> None:
    """One line for each tool that ``tasks`` wait for and no living worker offers."""
    waiting = {task.tool for task in tasks if task.state in ("queued", "failed")}
    for tool in sorted(waiting - served(hub)) if waiting else ():
        note(f"no worker that runs {tool!r} is alive: {start_for(tool)}")
