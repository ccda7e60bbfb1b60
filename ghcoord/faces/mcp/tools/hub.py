"""The tool that tells how the hub stands, and who the caller is there."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ghcoord.faces.mcp.advice import for_agent
from ghcoord.faces.mcp.answer import Answer
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.rows import is_silent
from ghcoord.faces.mcp.shown import line
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.mcp.visible import holds
from ghcoord.faces.views import iso, usage_view

MAX_NAMESPACES = 50
"""Namespaces of the memory that are named."""


class Nothing(Arguments):
    """Of ``hub_status``."""


class Status(Returns):
    """What ``hub_status`` returns."""

    hub: dict[str, Any] = Field(description="Its url and id.")
    at: str = Field(description="The hub's time.")
    you: dict[str, Any] = Field(description="user, workspace, and owner: in whose name you hold locks.")
    workers: dict[str, int] = Field(description="alive, silent, free_slots, room_for_sessions.")
    tasks: dict[str, int] = Field(description="How many tasks are in each state.")
    sessions: int = Field(description="Your sessions.")
    locks: int = Field(description="Locks that are held.")
    your_locks: int
    memory: list[dict[str, Any]] = Field(description="Namespaces of the memory: keys, bytes, when last changed.")
    namespaces: int = Field(description="How many namespaces there are, of which memory names the first 50.")


@tool(
    "hub_status",
    title="Look at the hub",
    toolset=Toolset.HUB,
    takes=Nothing,
    returns=Status,
    read_only=True,
    idempotent=True,
)
def hub_status(call: Call, args: Nothing) -> Answer:
    """Get an overview of what you share with other agents and workers: live workers and free slots, tasks by state,
    locks, your sessions, and the memory's namespaces. Call it first to learn where you are and in whose name."""
    hub, caller = call.hub, call.caller
    now = hub.now()
    alive = [worker for worker in hub.workers.list() if worker.alive]
    live = [worker for worker in alive if not is_silent(worker, now)]
    workers = {
        "alive": len(live),
        "silent": len(alive) - len(live),
        "free_slots": sum(worker.capacity.available_slots for worker in live),
        "room_for_sessions": sum(worker.session_room for worker in live),
    }
    tasks = hub.tasks.counts()
    held = hub.locks.list()
    usage = hub.memory.usage()
    data = {
        "hub": {"url": hub.url, "id": hub.id},
        "at": iso(now),
        "you": {"user": caller.user_id, "workspace": caller.workspace_id, "owner": caller.owner},
        "workers": workers,
        "tasks": tasks,
        "sessions": hub.sessions.count(user=caller.user_id, workspace=caller.workspace_id),
        "locks": len(held),
        "your_locks": sum(holds(caller, lock) for lock in held),
        "memory": [usage_view(one) for one in usage[:MAX_NAMESPACES]],
        "namespaces": len(usage),
    }
    return Answer(_text(data), data)


def _text(data: dict[str, Any]) -> str:
    workers, you = data["workers"], data["you"]
    tasks = ", ".join(f"{count} {state}" for state, count in data["tasks"].items() if count) or "none"
    spaces = ", ".join(f"{line(one['namespace'], 80)} ({one['keys']} keys)" for one in data["memory"][:10])
    more = f" and {data['namespaces'] - 10} more" if data["namespaces"] > 10 else ""
    said = [
        f"hub {line(data['hub']['url'], 500)} at {data['at']}",
        f"you are user {line(you['user'], 128)!r} in workspace {line(you['workspace'], 128)!r}",
        f"workers: {workers['alive']} alive, {workers['free_slots']} free task slots, "
        f"room for {workers['room_for_sessions']} sessions"
        + (f", {workers['silent']} silent" if workers["silent"] else ""),
        f"tasks: {tasks}",
        f"your sessions: {data['sessions']}; locks held: {data['locks']}, {data['your_locks']} of them yours",
        f"memory: {spaces or 'empty'}{more}",
    ]
    if not workers["alive"]:
        said.append(for_agent("No worker is alive: start one with 'ghcoord worker start'; until then tasks wait."))
    return "\n".join(said)


TOOLS = (hub_status,)
