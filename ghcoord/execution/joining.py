"""Registering where commits are scarce and many workers may start at the same moment.

Nobody can tell another start at the same moment from none, and each try counts
against the limits, lost or not.  So a worker waits for a moment and looks
whether the fleet has moved: then it lets others go first, and waits for longer.
"""

from __future__ import annotations

from collections.abc import Callable

from ghcoord.coord.layout import FLEET
from ghcoord.errors import Unavailable
from ghcoord.execution.rhythm import Rhythm
from ghcoord.hub import Hub

SPREADS = (3.0, 6.0, 150.0, 200.0, 240.0)
"""Seconds over which each try is spread, from one step to the next: 80 writes a minute is what GitHub allows."""

PATIENT = 2
"""Steps in which a worker goes on to the next instead of trying, when it has seen others commit."""


class Joining:
    """One worker's way into the fleet.

    ``wait`` waits for so many seconds and tells whether to go on.
    """

    def __init__(self, hub: Hub, rhythm: Rhythm, worker_id: str, wait: Callable[[float], bool]) -> None:
        self._hub = hub
        self._rhythm = rhythm
        self._worker_id = worker_id
        self._wait = wait
        self._head: str | None = None
        self._step = 0

    def run(self, register: Callable[[], None]) -> bool:
        """Call ``register``, which makes one try, until it has worked; ``False`` when told to stop before.

        Raises what ``register`` does, save ``Unavailable`` for a race that others won.
        """
        uniform = self._hub.runtime.uniform
        self._head = self._hub.heads().get(FLEET)
        while True:
            spread = SPREADS[self._step]
            if not self._wait(uniform(0, spread)):
                return False
            while (ready := self._hub.write_ready_in()) > 0:
                if not self._wait(ready + uniform(0, min(spread, 2 * ready))):
                    return False
            heads = self._hub.heads()
            before, self._head = self._head, heads.get(FLEET)
            if self._step < PATIENT:
                if self._head != before:
                    self._go_back()
                    continue
                self._rhythm.count(self._worker_id, self._hub.workers.present(heads).values())
            try:
                register()
            except Unavailable:
                newest = self._hub.newest()
                if newest is None or newest[1] == self._head:
                    raise
                if self._step >= PATIENT:
                    self._go_back()
            else:
                return True

    def _go_back(self) -> None:
        self._step = min(self._step + 1, len(SPREADS) - 1)
        if self._step >= PATIENT:
            self._rhythm.meet_crowd()
