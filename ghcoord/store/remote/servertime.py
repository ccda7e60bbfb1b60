"""The server's clock, from the ``Date`` of answers that came anyway."""

from __future__ import annotations

import threading

from ghcoord.clock import Runtime
from ghcoord.store.remote.program import Done

REFRESH = 300.0
"""Seconds after which the clock is compared again: two quartz clocks drift apart by 30 ms meanwhile."""

LONGEST = 6.0
"""Seconds of a call beyond which its Date tells too little: it may be of any moment in between."""


class ServerClock:
    """Knows by how much the server's clock differs from this machine's. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._mutex = threading.Lock()
        self._offset: float | None = None
        self._taken = 0.0
        self._took = LONGEST

    def wants_sample(self) -> bool:
        """Whether the next answer's Date is worth reading."""
        with self._mutex:
            return self._offset is None or self._runtime.monotonic() - self._taken > REFRESH

    def learn(self, done: Done) -> None:
        """Take what a call tells: the first answer came somewhere between its beginning and its end."""
        took = done.ended - done.began
        if done.date is None or not 0 <= took <= LONGEST:
            return
        with self._mutex:
            self._offset = done.date + 0.5 - (done.began + done.ended) / 2  # a Date is cut off to the second
            self._taken = self._runtime.monotonic()

    def now(self) -> float | None:
        """The server's time in seconds since the epoch; ``None`` while it is not known."""
        with self._mutex:
            return None if self._offset is None else self._runtime.now() + self._offset
