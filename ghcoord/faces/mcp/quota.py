"""How many sessions one user may have of a server that several share, so that there is room for the others."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ghcoord.errors import NoCapacity
from ghcoord.faces.mcp.answer import Failure

if TYPE_CHECKING:
    from ghcoord.faces.mcp.call import Call

Most = Callable[[], int]
"""Tells how many sessions a user may have now."""

LOOK = 0.25
"""Seconds after which a call that waits for its turn looks whether its client has given it up."""


def half(sessions: int) -> int:
    """What one user gets of so many sessions unless told otherwise: half of them, rounded up, at least one."""
    return max(1, math.ceil(sessions / 2))


class SessionQuota:
    """Counts a user's sessions, of all workspaces and states: one that no worker has comes back when it is called.

    Without ``most``, and for a caller who shares the server with nobody, there
    is no limit.  A user's sessions are made one after the other, so that no
    number of calls at once gets beyond it.
    """

    def __init__(self, most: Most | None = None) -> None:
        self._most = most
        self._mutex = threading.Lock()
        self._turns: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def room(self, call: Call) -> Iterator[None]:
        """Within the context the caller may make one session. Raises :class:`Failure` when it has too many."""
        if self._most is None or not call.caller.shared:
            yield
            return
        user = call.caller.user_id
        with self._turn(user) as turn:
            while not turn.acquire(timeout=LOOK):
                if call.cancelled():
                    raise Failure("the call was given up", "Call it again.", code="CANCELLED")
            try:
                most, there = self._most(), call.hub.sessions.count(user=user)
                if there >= most:
                    raise Failure(
                        f"you have {there} sessions, and on this server a user has {most} at most",
                        "End one that is no longer needed (session_list, session_destroy; each of your workspaces "
                        "lists its own), or use one that you have.",
                        code=NoCapacity.default_code,
                        retryable=True,
                    )
                yield
            finally:
                turn.release()

    @contextmanager
    def _turn(self, user: str) -> Iterator[threading.Lock]:
        """The user's lock, kept for as long as somebody has it."""
        with self._mutex:
            turn, users = self._turns.get(user, (threading.Lock(), 0))
            self._turns[user] = turn, users + 1
        try:
            yield turn
        finally:
            with self._mutex:
                users = self._turns[user][1] - 1
                if users:
                    self._turns[user] = turn, users
                else:
                    del self._turns[user]
