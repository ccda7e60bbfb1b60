"""The server's clock, told by the ``Date`` of its answers."""

from __future__ import annotations

import threading
from collections import deque

KEPT = 16
"""Answers that are remembered."""


class ServerClock:
    """What the server's clock shows, as a difference to our monotonic one.

    An answer with the date ``d``, asked at ``a`` and there at ``b``, proves
    that the difference lies between ``d - b`` and ``d + 1 - a``, since dates
    are cut to seconds.  The narrowest of the last answers counts, narrowed by
    those that do not contradict it: a slow answer changes nothing, and a clock
    that was set is followed as older answers leave.
    """

    told = False
    """Whether an answer came, with a date or without."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def hear(self, date: float | None, asked: float, answered: float) -> None:
        """An answer; ``asked`` and ``answered`` by the monotonic clock."""
        self.told = True
        if date is None:
            return
        with self._lock:
            low, high = date - answered, date + 1 - asked
            if self._seen and self._apart(low, high) and high - low < 3:
                self._seen.clear()
            self._seen.append((low, high))

    def _apart(self, low: float, high: float) -> bool:
        """Whether the server's clock was set since: a quick answer more than a minute from all the others."""
        return all(low > other_high + 60 or high < other_low - 60 for other_low, other_high in self._seen)

    def offset(self) -> float | None:
        """What to add to the monotonic clock; ``None`` before the first answer."""
        with self._lock:
            if not self._seen:
                return None
            seen = sorted(self._seen, key=lambda window: window[1] - window[0])
        low, high = seen[0]
        for other_low, other_high in seen[1:]:
            if other_low <= high and low <= other_high:
                low, high = max(low, other_low), min(high, other_high)
        return (low + high) / 2
