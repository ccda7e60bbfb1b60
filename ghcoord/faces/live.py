"""Following a hub: a look every interval in a thread of its own, so that whoever draws never waits for the hub."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from ghcoord.errors import GhcoordError
from ghcoord.faces.overview import as_of, gather
from ghcoord.faces.views import View
from ghcoord.hub import Hub
from ghcoord.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 3.0
"""Seconds without an answer, beyond the interval, after which the view says so."""


def can_redraw(screen: Console) -> bool:
    """Whether standard output is a terminal on which lines can be drawn anew."""
    return sys.stdout.isatty() and screen.is_terminal and not screen.is_dumb_terminal


class Watch:
    """Looks at ``hub`` every ``interval`` seconds until left.

    Entering makes the first look and raises what that raises; afterwards errors
    of the hub are shown, and looking goes on.
    """

    def __init__(self, hub: Hub, interval: float) -> None:
        self._hub = hub
        self._interval = interval
        self._runtime = hub.runtime
        self._stopped = self._runtime.event()
        self._news = self._runtime.event()
        self._lock = threading.Lock()
        self._heads: dict[str, str] = {}
        self._view: View = {}
        self._error: Exception | None = None
        self._answered = self._runtime.monotonic()

    def __enter__(self) -> Watch:
        self._look()
        self._thread = self._runtime.spawn(self._run, "ghcoord-status")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(timeout=2.0)

    def now(self) -> tuple[View, str]:
        """What was last seen, with ages as they are now, and what is wrong at present, ``""`` for nothing.

        Raises what is a fault of this program rather than of the hub.
        """
        with self._lock:
            view, error, answered = self._view, self._error, self._answered
        if error is not None and not isinstance(error, GhcoordError):
            raise error
        silent = self._runtime.monotonic() - answered
        trouble = ""
        if error is not None:
            trouble = f"what you see is {format_duration(round(silent))} old: {error}"
        elif silent > self._interval + PATIENCE:
            trouble = f"the hub has not answered for {format_duration(round(silent))}"
        return as_of(view, self._hub.now()), trouble

    def wait(self, seconds: float) -> None:
        """Wait for news, at most ``seconds``."""
        if self._news.wait(seconds):
            self._news.clear()

    def changes(self) -> Iterator[tuple[View | None, str]]:
        """What is seen whenever the hub has changed, without end; ``None`` for the view when only trouble changed."""
        shown: dict[str, str] | None = None
        said = ""
        while True:
            with self._lock:
                heads, failed = self._heads, self._error
            if failed is not None and not isinstance(failed, GhcoordError):
                raise failed
            trouble = str(failed) if failed is not None else ""
            if heads != shown:
                shown, said = heads, trouble
                yield self.now()[0], trouble
            elif trouble != said:
                said = trouble
                yield None, trouble
            self.wait(self._interval)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self._look_again()

    def _look_again(self) -> None:
        try:
            self._look()
        except Exception as error:
            # A hub that is being closed under this thread is no news.
            if not self._stopped.is_set():
                with self._lock:
                    self._error = error
                self._news.set()

    def _look(self) -> None:
        heads = self._hub.heads()
        view = gather(self._hub) if heads != self._heads else self._view
        with self._lock:
            changed = heads != self._heads or self._error is not None
            self._heads, self._view, self._error = heads, view, None
            self._answered = self._runtime.monotonic()
        if changed:
            self._news.set()
