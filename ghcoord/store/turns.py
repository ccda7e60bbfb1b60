"""Taking turns with other writers that one cannot see.

Who has just won knows the new heads and could send again at once, while those
who lost have to read first: so it would win again and again.
"""

from __future__ import annotations

import threading

from ghcoord.clock import Runtime

MOST = 4
"""Wins in a row after which the pause grows no more: then it is up to two commits long."""

FORGET = 10.0
"""Seconds after which an earlier win does not count any more."""


class Turns:
    """How long to wait before trying again after a loss, and before the next commit after wins. Thread-safe.

    ``base_wait`` is the first back-off in seconds.  Where ``far``, wins in a
    row make a writer wait for up to half of a commit's time apiece, so that
    those who lost get theirs in.
    """

    def __init__(self, runtime: Runtime, base_wait: float, *, far: bool) -> None:
        self._runtime = runtime
        self._base_wait = base_wait
        self._far = far
        self._mutex = threading.Lock()
        self._wins = 0
        self._won_at = 0.0
        self._free_at = 0.0

    def won(self, began: float) -> None:
        """A commit that was begun then, by the monotonic clock, was made just now."""
        with self._mutex:
            now = self._runtime.monotonic()
            self._wins = self._wins + 1 if now - self._won_at < FORGET else 1
            self._won_at = now
            if self._far:
                self._free_at = now + self._runtime.uniform(0, min(self._wins - 1, MOST) * (now - began) / 2)

    def lost(self, losses: int) -> None:
        """Wait after so many losses in a row: who keeps losing waits less than a newcomer, so that nobody starves."""
        with self._mutex:
            self._wins = 0
            self._free_at = 0.0
        self._runtime.sleep(self._runtime.uniform(0, self._base_wait / losses))

    def wait(self) -> bool:
        """Leave room for others; whether that took any time."""
        left = self._free_at - self._runtime.monotonic()
        if left <= 0:
            return False
        self._runtime.sleep(left)
        return True
