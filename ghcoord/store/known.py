"""The heads as this process knows them, so that not every transaction has to ask.

On a store whose answers cost requests a transaction is planned on the heads
that were read last and on those that this process made itself: the comparison
at the end decides.  What commits nothing is confirmed first.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ghcoord.clock import Runtime
from ghcoord.errors import NotFound, Unavailable
from ghcoord.store.base import Oid, Store

FRESH = 1.0
"""Seconds for which heads that were read count as present: an answer takes as long to reach the caller."""


def unseen_now(error: Exception) -> Exception:
    """What to say of a hub that was there before: that it is «not found» would be understood of a lock or a task."""
    return Unavailable(error.message) if isinstance(error, NotFound) else error


class KnownHeads:
    """Remembers what ``store`` said. Thread-safe; on a store that is asked for free it asks every time."""

    def __init__(self, store: Store, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime
        self._costly = store.capabilities.remote
        self._mutex = threading.Lock()
        self._heads: dict[str, Oid] | None = None
        self._read_at = 0.0
        self._moves = 0

    def read(self) -> dict[str, Oid]:
        """Ask the store."""
        sent, moves = self._runtime.monotonic(), self._moves
        heads = self._store.heads()
        if self._costly:
            with self._mutex:
                # Else this process has committed or asked again meanwhile, and knows better.
                if moves == self._moves and sent >= self._read_at:
                    self._heads, self._read_at = dict(heads), sent
        return heads

    def recent(self, age: float) -> dict[str, Oid]:
        """The heads as of at most ``age`` seconds ago."""
        found = self.at_hand()
        return found[0] if found is not None and found[1] <= age else self.read()

    def at_hand(self) -> tuple[dict[str, Oid], float] | None:
        """The heads last read, with this process's own commits since, and how many seconds ago; asks nobody."""
        with self._mutex:
            if self._heads is None:
                return None
            return dict(self._heads), self._runtime.monotonic() - self._read_at

    def note(self, made: Mapping[str, Oid]) -> None:
        """This process has moved these spaces."""
        with self._mutex:
            self._moves += 1
            if self._heads is not None:
                self._heads.update(made)

    def forget(self) -> None:
        """They turned out to be outdated."""
        with self._mutex:
            self._heads = None
