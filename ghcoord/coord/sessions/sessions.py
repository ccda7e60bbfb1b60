"""Sessions as programs see them: workspaces that keep their files between calls, each on one worker at a time."""

from __future__ import annotations

import threading

from ghcoord.coord.context import Context
from ghcoord.coord.files.content import Contents
from ghcoord.coord.sessions.calling import Calling
from ghcoord.coord.sessions.creating import Creating
from ghcoord.coord.sessions.looking import Looking
from ghcoord.coord.sessions.placements import Placements

__all__ = ["Sessions"]


class Sessions(Creating, Looking, Calling, Placements):
    """The sessions of a hub. May be shared between threads."""

    def __init__(self, context: Context, contents: Contents) -> None:
        self._context = context
        self._contents = contents
        self._mutex = threading.Lock()
        self._touched: dict[str, float] = {}
