"""Output that is too long for an answer: kept for a while, and read page by page as a resource."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass

from ghcoord.faces.mcp.caller import Caller
from ghcoord.hub import Hub
from ghcoord.ids import new_op_id

MAX_KEPT = 64 * 1024 * 1024
"""Characters of output that one server keeps; of who has the most the oldest goes first."""

MAX_ONE = 8 * 1024 * 1024
"""Characters kept of one output; more is left out at its end."""

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
        self._size: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def keep(self, caller: Caller, title: str, text: str) -> str:
        """Keep ``text`` for this caller; returns its URI."""
        cut = text if len(text) <= MAX_ONE else text[:MAX_ONE]
        uri = SCHEME + new_op_id(self._randbits)
        with self._mutex:
            self._kept[uri] = Kept(caller.user_id, caller.workspace_id, title, cut)
            self._size[caller.user_id] += len(cut)
            while self._size.total() > MAX_KEPT and len(self._kept) > 1:
                self._drop_one(uri)
        return uri

    def _drop_one(self, newest: str) -> None:
        """Forget the oldest output of the user who has most, so that nobody's go for another's; not the newest."""
        most = max(self._size, key=self._size.__getitem__)
        others = [uri for uri in self._kept if uri != newest]
        uri = next((uri for uri in others if self._kept[uri].user_id == most), others[0])
        gone = self._kept.pop(uri)
        self._size[gone.user_id] -= len(gone.text)
        if not self._size[gone.user_id]:
            del self._size[gone.user_id]

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
