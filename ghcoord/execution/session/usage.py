"""What a session uses: memory and CPU as its commands tell when they end, the disk by counting, now and then."""

from __future__ import annotations

import threading

from ghcoord.model.session import Usage

MEASURE_EVERY = 10.0
"""Seconds between two counts of a session's files."""

MEBIBYTE = 1024 * 1024


class Meter:
    """Adds up what one session uses. Safe to share between threads.

    Memory is the most that one of its last commands used; where no command has
    run for a while nothing is held.
    """

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self._memory: float | None = None
        self._disk: float | None = None
        self._processes: int | None = None
        self._measuring = False
        self._measured_at: float | None = None
        self._lock = threading.Lock()

    def add(self, usage: Usage) -> None:
        """A command has ended that used so much."""
        with self._lock:
            self.cpu_seconds += usage.cpu_seconds or 0.0
            if usage.memory_mb is not None:
                self._memory = usage.memory_mb
            if usage.processes is not None:
                self._processes = usage.processes

    def due(self, now: float) -> bool:
        """Whether its files are to be counted; who is told so does it and tells :meth:`measured`."""
        with self._lock:
            if self._measuring or (self._measured_at is not None and now - self._measured_at < MEASURE_EVERY):
                return False
            self._measuring = True
            return True

    def measured(self, size: int | None, now: float) -> None:
        """Its files have ``size`` bytes; ``None`` when they could not be counted."""
        with self._lock:
            self._measuring = False
            self._measured_at = now
            if size is not None:
                self._disk = round(size / MEBIBYTE, 3)

    def usage(self) -> Usage:
        """What is known."""
        with self._lock:
            return Usage(
                memory_mb=self._memory,
                cpu_seconds=round(self.cpu_seconds, 3),
                disk_mb=self._disk,
                processes=self._processes,
            )
