"""What both ways to a worker do with the hub: sessions made, restored and ended although an answer was lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ghcoord.errors import GhcoordError, NotFound, OutcomeUnknown
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.clients.places import Places
from ghcoord.hub import Hub
from ghcoord.ids import new_op_id
from ghcoord.model.session import Session


def new_session_id(hub: Hub) -> str:
    """An id of 100 random bits: nobody guesses another's."""
    return f"s{new_op_id(hub.runtime.randbits)}"


def create(
    hub: Hub,
    make: Callable[..., Session],
    caller: Caller,
    *,
    metadata: Mapping[str, Any] | None,
    env: Mapping[str, str] | None,
    limits: Mapping[str, Any] | None,
    allow: Sequence[str],
    sandbox: str,
) -> Session:
    """A session of the caller's, made by ``make``; found again by its id when the answer was lost.

    ``sandbox`` is the least that its worker must offer: the server's choice, never the caller's.
    """
    session_id = new_session_id(hub)
    try:
        return make(
            session_id,
            user_id=caller.user_id,
            workspace_id=caller.workspace_id,
            metadata=dict(metadata or {}),
            env=dict(env or {}),
            limits=dict(limits or {}),
            allow=tuple(allow),
            sandbox=sandbox,
        )
    except OutcomeUnknown:
        found = hub.sessions.get(session_id)
        if found is None:
            raise
        return found


def restore(
    hub: Hub, make: Callable[..., Session], session_id: str, checkpoint: str | None, new_id: str | None
) -> Session:
    """What ``make`` restores; where the answer was lost, the session if its record says that it happened."""
    before = hub.sessions.get(session_id)
    if before is None:
        raise NotFound(f"there is no session {session_id[:128]!r}")
    try:
        return make(session_id, checkpoint, new_id=new_id)
    except OutcomeUnknown:
        after = hub.sessions.get(session_id if new_id is None else new_id)
        if after is None or (new_id is None and (after.born, after.epoch) == (before.born, before.epoch)):
            raise
        return after


def notices(hub: Hub, places: Places, session_id: str, task_id: str = "") -> tuple[str, ...]:
    """What the caller of a call that has ended, ``task_id``, has to know of the session's files.

    Never raises what the hub does: the call has had its effect, and its answer must not be lost.
    """
    try:
        session = hub.sessions.get(session_id)
    except GhcoordError as error:
        return (f"Whether these are the files of earlier calls is not known: {error.message}",)
    return () if session is None else places.answered(session, task_id)


def destroy(hub: Hub, end: Callable[[str], None], session_id: str) -> None:
    """End a session; an answer that was lost does not matter when it is gone. Raises ``NotFound``."""
    before = hub.sessions.get(session_id, touch=False)
    try:
        end(session_id)
    except OutcomeUnknown:
        after = hub.sessions.get(session_id, touch=False)
        if before is None or (after is not None and after.born == before.born):
            raise
