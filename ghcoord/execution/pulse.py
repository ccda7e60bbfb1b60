"""A daemon's health, as it is published with its renewals."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ghcoord.coord.workers.tick import Finished
from ghcoord.execution.slots import Slots
from ghcoord.hub import Hub
from ghcoord.model.health import Vitals, assess
from ghcoord.model.worker import Health

LOOK_EVERY = 1.0
"""Seconds between looks at the machine: a busy worker ticks far more often."""


class Pulse:
    """Counts what fails in a row and looks at the machine. ``folder`` is where the workspaces lie."""

    def __init__(self, hub: Hub, slots: Slots, folder: Path) -> None:
        self._hub = hub
        self._slots = slots
        self._folder = folder
        self._failures = 0
        self._looked_at: float | None = None
        self._vitals = Vitals()
        self._cores = 0

    def note(self, finished: Iterable[Finished]) -> None:
        """Results that the hub has taken."""
        for one in finished:
            self._failures = 0 if one.result.success else self._failures + 1

    def health(self) -> Health:
        """The health now; see :func:`ghcoord.model.health.assess` for the rules."""
        now = self._hub.runtime.monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            self._vitals, self._cores = self._hub.vitals(self._folder), self._hub.machine().cpu_cores
        return assess(
            self._vitals,
            cores=self._cores,
            active_tasks=self._slots.running,
            faults=self._slots.faults,
            failures=self._failures,
        )
