"""Sessions as programs see them: workspaces that keep their files between calls, each on one worker at a time."""

from __future__ import annotations

import threading

from ghcoord.coord.context import Context
from ghcoord.coord.files.content import Contents
from ghcoord.coord.sessions.calling import Calling, data_of
from ghcoord.coord.sessions.checkpoints import SessionCheckpoints
from ghcoord.coord.sessions.creating import Creating
from ghcoord.coord.sessions.differences import Diff
from ghcoord.coord.sessions.looking import Looking
from ghcoord.errors import NotFound

__all__ = ["Sessions"]


class Sessions(SessionCheckpoints, Creating, Looking, Calling):
    """The sessions of a hub. May be shared between threads."""

    def __init__(self, context: Context, contents: Contents) -> None:
        self._context = context
        self._contents = contents
        self._mutex = threading.Lock()
        self._touched: dict[str, float] = {}

    def diff(
        self,
        session_id: str,
        a: str | None = None,
        b: str | None = None,
        *,
        text: bool = False,
        wait: float | None = 300.0,
    ) -> Diff:
        """What changed from checkpoint ``a``, the newest unless given, to ``b``.

        Without ``b`` to the files as they are, which the worker has to look at.
        With ``text`` also the lines that differ in small text files.  Raises
        ``NotFound``, ``Corrupt``, and as :meth:`call` and :meth:`checkpoint` do.
        """
        if a is None:
            every = self.checkpoints(session_id)
            if not every:
                raise NotFound(f"the session {session_id} has no checkpoint to compare with: make one first")
            a = every[-1].id
        if b is not None:
            return self.compared(session_id, a, b, text=text)
        asked = {"a": a, "text": True} if text else {"a": a}
        return Diff.model_validate(data_of(self.call(session_id, "session.diff", asked, wait=wait), "diff"))
