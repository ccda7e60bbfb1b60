"""A worker in the server's own process, for as long as it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ghcoord.clock import Event
from ghcoord.errors import GhcoordError, Unavailable

if TYPE_CHECKING:
    from ghcoord.execution.worker import WorkerDaemon

REGISTERED_IN = 5.0
"""Seconds that the server waits at its start for its worker to be ready; then it serves without."""

LAST_WAIT = 0.3
"""Seconds that a worker gets to stop what runs when it could not be drained in time."""

LOOK_EVERY = 0.02


class Hosted:
    """``daemon`` in a thread. ``on_end`` is called when its loop ends for whatever reason."""

    def __init__(self, daemon: WorkerDaemon, on_end: Callable[[], None]) -> None:
        self._daemon = daemon
        self._runtime = daemon.hub.runtime
        self._on_end = on_end
        self._ended = self._runtime.event()
        self._leaving = False
        self._why = "it was told to stop"

    def start(self) -> None:
        """Begin, and wait a while for it to be ready. Raises ``Unavailable`` if it ends instead."""
        self._runtime.spawn(self._run, "ghcoord-mcp-worker")
        end = self._runtime.monotonic() + REGISTERED_IN
        while not self._daemon.ready and self._runtime.monotonic() < end:
            if self._ended.wait(LOOK_EVERY):
                break
        self.check()

    def _run(self) -> None:
        try:
            self._daemon.run()
        except GhcoordError as error:
            self._why = error.message
        except BaseException as error:
            self._why = f"unexpected {type(error).__name__}: {error}"
        finally:
            self._ended.set()
            self._on_end()

    def check(self) -> None:
        """Raise ``Unavailable`` if the worker has ended by itself."""
        if self._ended.is_set() and not self._leaving:
            raise Unavailable(f"the worker {self._daemon.worker_id} of this server has ended: {self._why}")

    def leave(self, at_most: float, hurry: Event) -> None:
        """Give back tasks that run, save the sessions, deregister: within ``at_most`` seconds, or until ``hurry``.

        Raises ``Unavailable`` if the worker had ended by itself.
        """
        self.check()
        self._leaving = True
        self._daemon.cancel()
        end = self._runtime.monotonic() + at_most
        while not self._ended.wait(LOOK_EVERY):
            if hurry.is_set() or self._runtime.monotonic() >= end:
                self._daemon.sessions.pause("has left with its server")
                self._ended.wait(LAST_WAIT)
                return


@contextmanager
def hosting(daemon: WorkerDaemon, *, on_end: Callable[[], None], leave_in: float, hurry: Event) -> Iterator[Hosted]:
    """``daemon`` works within the context, and leaves at its end as :meth:`Hosted.leave` says.

    Raises ``Unavailable`` when it has ended by itself before.
    """
    hosted = Hosted(daemon, on_end)
    hosted.start()
    try:
        yield hosted
    finally:
        hosted.leave(leave_in, hurry)
