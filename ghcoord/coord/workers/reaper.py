"""Looking after dead workers at an interval, for hubs on which no daemon does it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple

from ghcoord.clock import Runtime, Thread
from ghcoord.errors import GhcoordError, UsageError

Log = Callable[[str, str], None]
"""Gets (level, text); the level is debug, info, warn or error."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class Recovered(NamedTuple):
    """What was taken from a dead worker."""

    locks: int
    tasks: int
    sessions: int


class Reaped(NamedTuple):
    """What reaping did: what was taken, by worker, and the ids of those that were removed."""

    recovered: Mapping[str, Recovered]
    removed: list[str]

    @property
    def summary(self) -> str:
        """One line for people: how many workers, the first of them, and what they held."""
        tasks = sum(one.tasks for one in self.recovered.values())
        locks = sum(one.locks for one in self.recovered.values())
        sessions = sum(one.sessions for one in self.recovered.values())
        held = (
            f"{tasks} tasks, {locks} locks and {sessions} sessions" if sessions else f"{tasks} tasks and {locks} locks"
        )
        taken = f" with {held}" if self.recovered else ""
        return (
            f"{len(self.recovered)} workers recovered{_first(sorted(self.recovered))}{taken}, "
            f"{len(self.removed)} removed{_first(self.removed)}"
        )


def _first(names: list[str], most: int = 5) -> str:
    more = f", … {len(names) - most} more" if len(names) > most else ""
    return f" ({', '.join(names[:most])}{more})" if names else ""


class Reaper:
    """Calls ``one_pass`` every ``interval`` seconds until stopped; an error of one pass does not end it.

    Use it as a context manager, with :meth:`start` and :meth:`stop`, or call
    :meth:`run` in a thread of your own.  ``passes`` counts those that were
    made, ``last`` is what the last good one did.
    """

    def __init__(
        self,
        runtime: Runtime,
        one_pass: Callable[[], Reaped],
        interval: float,
        *,
        log: Log | None = None,
        on_pass: Callable[[Reaped], None] | None = None,
    ) -> None:
        if not interval > 0:
            raise UsageError(f"an interval of {interval:g} s cannot be: give more than 0")
        self.passes = 0
        self.last: Reaped | None = None
        self._runtime = runtime
        self._one_pass = one_pass
        self._interval = interval
        self._log = log or _to_logger
        self._on_pass = on_pass
        self._stopped = runtime.event()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin in the background; the first pass is at once. Starting it again does nothing."""
        if self._thread is None or not self._thread.is_alive():
            self._stopped.clear()
            self._thread = self._runtime.spawn(self.run, "ghcoord-reaper")

    def stop(self) -> None:
        """End after the present pass, for which it waits a few seconds."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def run(self) -> None:
        """Make passes in this thread until another one calls :meth:`stop`."""
        while not self._stopped.is_set():
            self._make_pass()
            self._stopped.wait(self._interval)

    def _make_pass(self) -> None:
        self.passes += 1
        try:
            self.last = done = self._one_pass()
        except Exception as error:
            # Also what nobody foresaw: a loop that ends over one record leaves the dead to no one.
            known = isinstance(error, GhcoordError)
            self._log("error", str(error) if known else f"unexpected {type(error).__name__}: {error}")
            return
        self._log("info" if done.recovered or done.removed else "debug", done.summary)
        if self._on_pass is not None:
            self._on_pass(done)

    def __enter__(self) -> Reaper:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _to_logger(level: str, text: str) -> None:
    logging.getLogger("ghcoord.reaper").log(_LEVELS.get(level, logging.INFO), "%s", text)
