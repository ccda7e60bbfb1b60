"""Waiting in a call: for a while, until the client gives it up, with a sign of life now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghcoord.faces.mcp.call import Call

SLICE = 0.25
"""Seconds after which a wait looks whether the client has given the call up."""

BEAT = 5.0
"""Seconds between signs of life: clients that count from the last one wait on."""


class Stop:
    """A flag (:class:`ghcoord.clock.Event`) that is set as soon as the client gives the call up.

    Whoever waits for it tells the client of progress meanwhile: ``saying`` says what it waits for.
    """

    def __init__(self, call: Call, saying: Callable[[], str]) -> None:
        self._call = call
        self._saying = saying
        self._flag = call.services.runtime.event()
        self._started = self._told = call.services.runtime.monotonic()

    def set(self) -> None:
        self._flag.set()

    def clear(self) -> None:
        self._flag.clear()

    def is_set(self) -> bool:
        return self._flag.is_set() or self._call.cancelled()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until set, at most ``timeout`` seconds; returns whether it is set."""
        runtime = self._call.services.runtime
        end = None if timeout is None else runtime.monotonic() + timeout
        while not self.is_set():
            now = runtime.monotonic()
            if end is not None and now >= end:
                return False
            self.beat(now)
            self._flag.wait(SLICE if end is None else min(SLICE, end - now))
        return True

    def beat(self, now: float) -> None:
        """Tell the client that this goes on, if it is time to."""
        if now - self._told >= BEAT:
            self._told = now
            self._call.progress(None, f"{self._saying()} ({now - self._started:.0f} s)")
