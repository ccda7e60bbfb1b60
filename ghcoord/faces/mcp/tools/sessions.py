"""Tools for sessions: made, listed, looked at, saved, restored, ended. The caller's own alone exist for it."""

from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from typing import Any

from pydantic import Field

from ghcoord.errors import GhcoordError, NoCapacity, SandboxError
from ghcoord.faces.mcp.answer import Answer, Failure
from ghcoord.faces.mcp.call import Call
from ghcoord.faces.mcp.clients.common import new_session_id
from ghcoord.faces.mcp.tools.failing import telling, unplaced
from ghcoord.faces.mcp.tools.workspacetext import plain_names
from ghcoord.faces.mcp.toolspec import Arguments, Returns, Toolset, tool
from ghcoord.faces.session_views import call_view, checkpoint_view, session_view, usage_view
from ghcoord.faces.views import iso
from ghcoord.model.limits import Limits
from ghcoord.model.session import CallNote, Session, SessionStatus

STATES = ("new", "active", "parked", "lost")

SESSION = Field(min_length=1, max_length=128, description="The session's id, as session_create returned it.")

_LISTED = ("id", "state", "worker_id", "created_at", "last_active", "calls", "active_tasks", "checkpoints", "metadata")
_SAVED = ("id", "name", "created_at", "files", "size", "published")
METADATA_SHOWN = 500
"""Characters of a session's metadata in the list; session_status has all of it."""


class _Create(Arguments):
    metadata: dict[str, Any] = Field(default_factory=dict, description="Notes of your own, such as what it is for.")
    env: dict[str, str] = Field(default_factory=dict, description="Variables for all its commands.")
    limits: dict[str, float] = Field(
        default_factory=dict,
        description=f"Limits by name: {', '.join(Limits.model_fields)}; e.g. {{'memory_mb': 512}}.",
    )
    allow: tuple[str, ...] = Field(
        default=(),
        max_length=50,
        description="Hosts that its commands may reach over https, such as files.example.org; none unless given. "
        "pkg_install reaches the package index in any case.",
    )


class _Created(Returns):
    session_id: str
    state: str
    worker_id: str | None
    session: dict[str, Any]


class _List(Arguments):
    state: str | None = Field(None, description=f"Only those in one state: {', '.join(STATES)}.")
    limit: int = Field(20, ge=1, le=100, description="Sessions in one answer.")
    offset: int = Field(0, ge=0, description="Sessions to skip: next_offset of the answer before.")


class _Listed(Returns):
    sessions: list[dict[str, Any]] = Field(description="The newest first.")
    total: int
    next_offset: int | None = Field(description="Where the next page begins; null on the last.")


class _One(Arguments):
    session_id: str = SESSION


class _Status(Returns):
    session_id: str
    state: str
    worker_id: str | None
    session: dict[str, Any]
    checkpoints: list[dict[str, Any]] = Field(description="Oldest first.")
    recent_calls: list[dict[str, Any]]


class _Destroyed(Returns):
    session_id: str
    destroyed: bool


class _Save(Arguments):
    session_id: str = SESSION
    name: str = Field("", max_length=200, description="For you to recognise it by.")


class _Saved(Returns):
    session_id: str
    checkpoint: dict[str, Any]


class _Restore(Arguments):
    session_id: str = SESSION
    checkpoint: str | None = Field(None, min_length=1, max_length=64, description="Its id; the newest unless given.")
    as_new: bool = Field(False, description="Make another session of it, and leave this one as it is.")


class _Restored(Returns):
    session_id: str = Field(description="The restored session, or the new one.")
    state: str
    worker_id: str | None
    checkpoint: str | None
    session: dict[str, Any]


@tool(
    "session_create",
    title="Create a session",
    toolset=Toolset.SESSIONS,
    takes=_Create,
    returns=_Created,
    read_only=False,
)
def create(call: Call, args: _Create) -> Answer:
    """Make a session: a private workspace in a sandbox with its own Python environment, on a worker.

    Its files stay between calls. Give the session_id to fs_write, run_python, shell and the others.
    No network except the hosts in allow; packages come with pkg_install, pip is not there.
    Nobody's use for a while (30 minutes, unless its worker says otherwise) ends it; session_destroy does at once.
    """
    try:
        with call.services.quota.room(call):
            session = call.workers.create(
                call.caller,
                metadata=args.metadata,
                env=args.env,
                limits={name: int(value) if value.is_integer() else value for name, value in args.limits.items()},
                allow=args.allow,
            )
    except NoCapacity as error:
        why, step = unplaced(error)
        raise Failure(_nameless(why), step, code=error.code, retryable=True) from None
    except SandboxError as error:
        step = "Nothing was made. Try again in a moment; if it fails again, tell the user."
        raise Failure(_nameless(error.message), step, code=error.code, retryable=error.retryable) from None
    with suppress(GhcoordError):  # it is there: an error now would lose its id
        session = call.hub.sessions.get(session.id) or session
    where = f" on the worker {session.worker_id}" if session.worker_id else ""
    return Answer(f"The session {session.id} is ready{where}. Pass it as session_id.", _shown(session))


@tool(
    "session_list",
    title="List your sessions",
    toolset=Toolset.SESSIONS,
    takes=_List,
    returns=_Listed,
    read_only=True,
)
def list_(call: Call, args: _List) -> Answer:
    """List your sessions, the newest first: where each is, when it was last used, how many checkpoints it has."""
    caller = call.caller
    every = call.hub.sessions.list(user=caller.user_id, workspace=caller.workspace_id, state=args.state)
    found = every[::-1]
    page = found[args.offset : args.offset + args.limit]
    end = args.offset + len(page)
    following = end if page and end < len(found) else None
    lines = [
        f"{one.id} {one.state} worker={one.worker_id or '-'} last_active={iso(one.last_active)} "
        f"calls={one.calls} checkpoints={len(one.checkpoints)}"
        for one in page
    ]
    if following is not None:
        lines.append(f"[{len(found) - end} more: call again with offset {following}]")
    text = "\n".join(lines) or ("No more sessions." if found else "You have no session: session_create makes one.")
    data = {"sessions": [_row(one) for one in page], "total": len(found), "next_offset": following}
    return Answer(text, data)


@tool(
    "session_status",
    title="Look at a session",
    toolset=Toolset.SESSIONS,
    takes=_One,
    returns=_Status,
    read_only=True,
)
def status(call: Call, args: _One) -> Answer:
    """Show where a session is, what it may use and used as of its last command, its checkpoints and its last calls.

    The disk is counted now and then, so its figure may be older.
    """
    session = call.services.owners.need(call.caller, args.session_id)
    with telling(call, session.id):
        known = call.workers.status(session.id)
    shown = _shown(session)
    calls = max(known.calls, session.calls)  # its worker counts, and tells the hub now and then
    shown["session"] |= {"active_tasks": known.active_tasks, "calls": calls, "usage": _usage(session, known)}
    shown["session"].pop("tasks")
    data = {
        **shown,
        "state": str(known.state),
        "worker_id": known.worker_id,
        "checkpoints": [_picked(checkpoint_view(one, session.id), _SAVED) for one in session.checkpoints],
        "recent_calls": [_called(one) for one in known.tasks],
    }
    return Answer(_told(session, known), data)


@tool(
    "session_destroy",
    title="End a session",
    toolset=Toolset.SESSIONS,
    takes=_One,
    returns=_Destroyed,
    read_only=False,
    destructive=True,
)
def destroy(call: Call, args: _One) -> Answer:
    """End a session: its running calls are stopped, its files and checkpoints removed. Its artifacts stay."""
    session = call.services.owners.need(call.caller, args.session_id)
    with telling(call, session.id):
        call.workers.destroy(session.id)
    return Answer(f"The session {session.id} has ended.", {"session_id": session.id, "destroyed": True})


@tool(
    "session_checkpoint",
    title="Save a session",
    toolset=Toolset.SESSIONS,
    takes=_Save,
    returns=_Saved,
    read_only=False,
)
def checkpoint(call: Call, args: _Save) -> Answer:
    """Save a session's files, settings and exact packages, so that they outlive its worker.

    session_restore brings them back. Do so before you try something risky and after work that would be
    costly to repeat.
    """
    session = call.services.owners.need(call.caller, args.session_id)
    with telling(call, session.id):
        made = call.workers.checkpoint(session.id, args.name)
    view = _picked(checkpoint_view(made, session.id), _SAVED)
    text = f"Saved as the checkpoint {made.id}: {made.files} files, {made.size} bytes."
    if not made.published:
        text += " Only its own worker keeps it: it is lost when that machine is."
    return Answer(text, {"session_id": session.id, "checkpoint": view})


@tool(
    "session_restore",
    title="Restore a session",
    toolset=Toolset.SESSIONS,
    takes=_Restore,
    returns=_Restored,
    read_only=False,
    destructive=True,
)
def restore(call: Call, args: _Restore) -> Answer:
    """Put a session's files and packages back as a checkpoint has them, or make another session of it with as_new.

    Without as_new what the session has now is given up. Processes are not restored.
    """
    session = call.services.owners.need(call.caller, args.session_id)
    new_id = new_session_id(call.hub) if args.as_new else None
    with telling(call, session.id), call.services.quota.room(call) if args.as_new else nullcontext():
        restored = call.workers.restore(session.id, args.checkpoint, new_id=new_id)
    restored = call.hub.sessions.get(restored.id) or restored
    start = restored.restored_from if str(restored.state) == "active" else restored.restore_from
    what = f"The new session {restored.id}" if args.as_new else f"The session {restored.id}"
    where = f" on the worker {restored.worker_id}" if restored.worker_id else "; it waits for a worker with room"
    return Answer(f"{what} is as the checkpoint {start} has it{where}.", {**_shown(restored), "checkpoint": start})


TOOLS = (create, list_, status, destroy, checkpoint, restore)


def _shown(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.id,
        "state": str(session.state),
        "worker_id": session.worker_id,
        "session": session_view(session),
    }


_ID = re.compile(r"\bthe session '?s[0-9a-z]{20}'?")


def _nameless(message: str) -> str:
    """``message`` without the id of a session that was not made."""
    return _ID.sub("the session", message)


def _picked(view: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: view[name] for name in names}


def _row(session: Session) -> dict[str, Any]:
    row = _picked(session_view(session), _LISTED)
    if len(str(session.metadata)) > METADATA_SHOWN:
        row["metadata"] = {"…": "session_status shows it"}
    return row


def _called(note: CallNote) -> dict[str, Any]:
    view = call_view(note)
    return {**view, "tool": plain_names(view["tool"])}


def _usage(session: Session, known: SessionStatus) -> dict[str, Any]:
    """What the session uses as its worker knows it, which may be newer than its record."""
    newer = {"memory_mb": known.memory, "cpu_seconds": known.cpu, "disk_mb": known.disk}
    return usage_view(session.usage) | {name: value for name, value in newer.items() if value is not None}


def _told(session: Session, known: SessionStatus) -> str:
    """The status in a few lines."""
    uses = [
        f"{value:g} {unit}"
        for value, unit in ((known.memory, "MiB of memory"), (known.cpu, "s of CPU"), (known.disk, "MiB on disk"))
        if value is not None
    ]
    limits = session.limits.model_dump(exclude_none=True)
    calls = max(known.calls, session.calls)
    lines = [
        f"Session {session.id}: {known.state}" + (f" on the worker {known.worker_id}" if known.worker_id else ""),
        f"lost because {session.lost_because}" if session.lost_because else "",
        f"calls: {calls}, running now: {known.active_tasks}; last active {iso(known.last_active)}",
        f"used as of its last command, the disk as last counted: {', '.join(uses)}" if uses else "",
        f"limits: {', '.join(f'{name}={value:g}' for name, value in limits.items())}" if limits else "",
        f"its files came from the checkpoint {session.restored_from}" if session.restored_from else "",
    ]
    lines += [f"checkpoint {one.id} {one.name!r} of {iso(one.created_at)}" for one in session.checkpoints]
    for one in known.tasks:
        how = "ok" if one.success else f"failed: {plain_names(one.error)}"
        lines.append(f"call {plain_names(one.tool)} at {iso(one.at)}: {how}")
    return "\n".join(line for line in lines if line)
