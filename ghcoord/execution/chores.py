"""What a daemon does for the others: noticing the dead, clearing away what is over."""

from __future__ import annotations

from collections.abc import Mapping

from ghcoord.errors import Denied, NotFound, Unavailable, UsageError
from ghcoord.execution.rhythm import Rhythm
from ghcoord.execution.sandbox.orphans import end_orphans
from ghcoord.execution.session.pool import STALE_AFTER, SessionPool
from ghcoord.execution.summary import Log, Summary
from ghcoord.hub import Hub

CARE_EVERY = 60.0
"""Seconds between removals of expired locks and long-gone workers (parity: at most once a minute), and of orphans."""

TEND_EVERY = 1.0
"""Seconds between looks at the others on a hub that is asked for free; less for a short lease."""

FRUGAL_CARE_EVERY = 600.0
"""Seconds between removals on a hub that is not, at least."""


SWEEP_EVERY = 300.0
"""Seconds between looks for the files of sessions that workers which are gone have left on this machine."""


class Chores:
    """The chores of a daemon, which has ``sessions``; what it recovers counts in ``summary``.

    Where asking costs requests it observes the others on heads that were just
    read, and mostly leaves it all to the worker that comes first by name.
    """

    def __init__(self, hub: Hub, rhythm: Rhythm, sessions: SessionPool, summary: Summary, log: Log) -> None:
        self._hub = hub
        self._rhythm = rhythm
        self._worker_id = sessions.worker_id
        self._sessions = sessions
        self._summary = summary
        self._log = log
        self._next_tend = 0.0
        self._next_care = 0.0
        self._next_orphans = 0.0
        self._next_sweep = 0.0
        self._told: set[str] = set()

    def run(self, heads: Mapping[str, str] | None) -> bool:
        """Do what is due; whether anything was recovered. ``heads`` are those that were read just now."""
        now = self._hub.runtime.monotonic()
        frugal = self._rhythm.pace is not None
        if now >= self._next_orphans:
            self._next_orphans = now + CARE_EVERY
            end_orphans()
        if frugal and not self._next_tend:
            self._next_tend = now + self._rhythm.chore_every(0.0)
            self._next_care = now + self._rhythm.chore_every(FRUGAL_CARE_EVERY)
        if now < self._next_tend or (frugal and heads is None):
            return False
        self._next_tend = now + (self._rhythm.chore_every(0.0) if frugal else min(TEND_EVERY, self._rhythm.ttl / 6))
        try:
            recovered = self._hub.workers.tend(heads)
        except Unavailable as error:
            if not frugal:
                raise
            self._log("debug", f"the dead wait for the next look: {error}")
            return False
        for worker_id, taken in recovered.items():
            self._summary.recovered += taken.tasks
            self._log("warn", f"worker {worker_id} is gone: {taken.tasks} tasks and {taken.locks} locks recovered")
        if frugal and not recovered:
            self._rhythm.count(self._worker_id, self._hub.workers.present(heads).values())
        if now >= self._next_care:
            self._next_care = now + (self._rhythm.chore_every(FRUGAL_CARE_EVERY) if frugal else CARE_EVERY)
            self._hub.locks.tend()
            self._hub.workers.sweep(heads)
            self._hub.tasks.retain()
            if cleaned := self._clean_sessions():
                self._log("info", f"{cleaned} sessions that nobody used were destroyed")
            self._clean_artifacts()
        if now >= self._next_sweep:
            self._next_sweep = now + max(SWEEP_EVERY, self._rhythm.chore_every(0.0) if frugal else 0.0)
            if swept := self._sessions.sweep():
                self._log("info", f"the files of {swept} sessions were removed: their workers are gone")
        return bool(recovered)

    def _clean_sessions(self) -> int:
        """Destroy those here that are idle for this worker's time, and those that no worker has for the usual one.

        Other workers have times of their own.
        """
        sessions, after = self._hub.sessions, self._sessions.stale_after
        every = sessions.list()
        here = {one.id for one in every if one.worker_id == self._worker_id}
        nowhere = {one.id for one in every if one.worker_id is None}
        cleaned = sessions.clean(after, only=here) if here else 0
        return cleaned + sessions.clean(max(after, STALE_AFTER), only=nowhere)

    def _clean_artifacts(self) -> None:
        """Remove those whose time is over. What this machine's settings cannot reach is told once, and stays."""
        try:
            removed = self._hub.artifacts.clean()
        except (UsageError, Denied, NotFound) as error:
            if error.message not in self._told:
                self._told.add(error.message)
                self._log("warn", f"artifacts whose time is over stay: {error}")
            return
        if removed:
            self._log("info", f"{removed} artifacts were removed: their time was over")
