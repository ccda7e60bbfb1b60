"""A daemon's health, as it is published with its renewals."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ghcoord.coord.tick import Finished
from ghcoord.execution.slots import Slots
from ghcoord.hub import Hub
from ghcoord.model.health import assess
from ghcoord.model.worker import Health


class Pulse:
    """Counts what fails in a row and looks at the machine. ``folder`` is where the workspaces lie."""

    def __init__(self, hub: Hub, slots: Slots, folder: Path) -> None:
        self._hub = hub
        self._slots = slots
        self._folder = folder
        self._failures = 0

    def note(self, finished: Iterable[Finished]) -> None:
        """Results that the hub has taken."""
        for one in finished:
            self._failures = 0 if one.result.success else self._failures + 1

    def health(self) -> Health:
        """The health now; see :func:`ghcoord.model.health.assess` for the rules."""
        return assess(
            self._hub.vitals(self._folder),
            cores=self._hub.machine().cpu_cores,
            active_tasks=self._slots.running,
            faults=self._slots.faults,
            failures=self._failures,
        )
