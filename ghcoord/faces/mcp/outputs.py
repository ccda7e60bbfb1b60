"""Output that is too long for an answer: kept for a while, and read page by page as a resource."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from ghcoord.faces.mcp.caller import Caller
from ghcoord.hub import Hub
from ghcoord.ids import new_op_id

MAX_KEPT = 64 * 1024 * 1024
"""Bytes of output that one server keeps; the oldest goes first."""

MAX_ONE = 8 * 1024 * 1024
"""Bytes kept of one output; more is left out at its end."""

SCHEME = "ghcoord://outputs/"


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept output and whose it is."""

    user_id: str
    workspace_id: str
    title: str
    text: str


class Outputs:
    """The long outputs of one server, in memory. May be shared between threads."""

    def __init__(self, hub: Hub) -> None:
        self._randbits = hub.runtime.randbits
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._mutex = threading.Lock()

    def keep(self, caller: Caller, title: str, text: str) -> str:
        """Keep ``text`` for this caller; returns its URI."""
        cut = text if len(text) <= MAX_ONE else text[:MAX_ONE]
        uri = SCHEME + new_op_id(self._randbits)
        with self._mutex:
            self._kept[uri] = Kept(caller.user_id, caller.workspace_id, title, cut)
            self._bytes += len(cut)
            while self._bytes > MAX_KEPT and len(self._kept) > 1:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone.text)
        return uri

    def find(self, caller: Caller, uri: str) -> Kept | None:
        """The output at ``uri`` if it is this caller's and still kept."""
        with self._mutex:
            kept = self._kept.get(uri)
        if kept is None or (kept.user_id, kept.workspace_id) != (caller.user_id, caller.workspace_id):
            return None
        return kept

    def of(self, caller: Caller) -> list[tuple[str, Kept]]:
        """The caller's outputs, newest first."""
        mine = caller.user_id, caller.workspace_id
        with self._mutex:
            return [(uri, one) for uri, one in reversed(self._kept.items()) if (one.user_id, one.workspace_id) == mine]
