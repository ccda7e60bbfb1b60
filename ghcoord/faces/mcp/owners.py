"""Whose a session is: another user's is treated as one that does not exist."""

from __future__ import annotations

import re

from ghcoord.errors import Corrupt, NewerSchema
from ghcoord.faces.mcp.answer import Failure
from ghcoord.faces.mcp.caller import Caller
from ghcoord.hub import Hub
from ghcoord.model.session import Session

CALL_CREATE = "Call session_create for a new one, or session_list for those that you have."

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


class Owners:
    """Tells whether a caller owns a session: by its record, at every call, since an id may come again.

    Asking does not count as using the session.
    """

    def __init__(self, hub: Hub) -> None:
        self._sessions = hub.sessions

    def session(self, caller: Caller, session_id: str) -> Session | None:
        """The session when it is there and the caller's. One whose record is broken is nobody's."""
        if _ID.fullmatch(session_id) is None:
            return None
        try:
            found = self._sessions.get(session_id, touch=False)
        except (Corrupt, NewerSchema):
            return None
        if found is None or (found.user_id, found.workspace_id) != (caller.user_id, caller.workspace_id):
            return None
        return found

    def owns(self, caller: Caller, session_id: str) -> bool:
        """Whether the session is there and the caller's."""
        return self.session(caller, session_id) is not None

    def need(self, caller: Caller, session_id: str) -> Session:
        """The session when it is the caller's. Raises :class:`Failure`: the same for another's and for none."""
        found = self.session(caller, session_id)
        if found is None:
            raise no_session(session_id)
        return found


def no_session(session_id: str) -> Failure:
    """There is none of that id for this caller."""
    return Failure(f"there is no session {session_id[:128]!r}, or it has ended", CALL_CREATE, code="NOT_FOUND")
