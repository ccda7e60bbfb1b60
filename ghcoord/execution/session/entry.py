"""One session that a worker has open: who calls in it, what it has used, what was said of it to the hub."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ghcoord.clock import Event
from ghcoord.execution.session.folder import SessionFolder
from ghcoord.execution.session.journal import Journal
from ghcoord.execution.session.usage import Meter
from ghcoord.model.codec import stamp
from ghcoord.model.session import MAX_RECENT, CallNote, SessionReport, SessionState, SessionStatus

BUSY_STEP = 60.0
"""Seconds of activity after which a report that says nothing else is another one."""


def do_nothing() -> None:
    """What cancels a call that cannot be cancelled."""


@dataclass(slots=True)
class Running:
    """A call that is in the session now; ``cancel`` stops it."""

    tool: str
    task_id: str
    cancel: Callable[[], None] = do_nothing


class Entry:
    """A session on this worker. Its owner, the pool, holds a lock whenever it is looked at or changed.

    ``folder`` is ``None`` while it is being opened; ``ready`` is set when that
    ends, ``closed`` when its files are out of the way.
    """

    def __init__(self, session_id: str, ready: Event, closed: Event) -> None:
        self.id = session_id
        self.ready = ready
        self.closed = closed
        self.folder: SessionFolder | None = None
        self.meter = Meter()
        self.running: dict[int, Running] = {}
        self.under_way: dict[str, Event] = {}
        """Calls with a key that have not ended, by the name of the call."""
        self.closing = ""
        """Why it is being closed; empty when it is not."""
        self.recent: deque[CallNote] = deque(maxlen=MAX_RECENT)
        self.calls = 0
        self.moves = 0
        """Changes whenever a call comes or goes."""
        self.last_active = 0.0
        self.saved = ""
        """The checkpoint that has everything; empty when there were calls since."""
        self.restored_from: str | None = None
        self.reported: SessionReport | None = None
        self.journal: Journal | None = None
        """The calls with a key, while it is open."""

    def opened(self, folder: SessionFolder, journal: Journal, restored_from: str | None, now: float) -> None:
        """Its files are there."""
        session = folder.session
        self.journal = journal
        self.folder = folder
        self.restored_from = restored_from
        self.saved = restored_from or ""
        self.recent.extend(session.recent)
        self.calls = session.calls
        self.meter.cpu_seconds = session.usage.cpu_seconds or 0.0
        self.last_active = max(now, session.last_active.timestamp())
        self.ready.set()

    def note(self, note: CallNote) -> None:
        """A call has ended."""
        self.recent.append(note)
        self.calls += 1

    def reported_as(self, report: SessionReport) -> None:
        """The hub has heard this."""
        self.reported = report.model_copy(update={"restored_from": None})
        if report.restored_from == self.restored_from:
            self.restored_from = None

    def report(self, folder: SessionFolder, now: float) -> SessionReport:
        """What the hub is to know of it."""
        if self.running:
            before = self.reported.last_active if self.reported is not None else 0.0
            self.last_active = now if now - before > BUSY_STEP else max(before, self.last_active)
        return SessionReport(
            id=self.id,
            epoch=folder.epoch,
            opened=True,
            restored_from=self.restored_from,
            last_active=self.last_active,
            calls=self.calls,
            active_tasks=len(self.running),
            usage=self.meter.usage(),
            recent=tuple(self.recent),
        )

    def status(self, worker_id: str) -> SessionStatus:
        """What is known of it now, from memory."""
        usage = self.meter.usage()
        return SessionStatus(
            id=self.id,
            state=SessionState.ACTIVE,
            worker_id=worker_id,
            memory=usage.memory_mb,
            cpu=usage.cpu_seconds,
            disk=usage.disk_mb,
            last_active=stamp(self.last_active),
            active_tasks=len(self.running),
            calls=self.calls,
            tasks=tuple(self.recent),
        )
