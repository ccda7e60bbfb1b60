"""How calls get into a session: it is opened when the first one comes, and its files go when the last one leaves."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ghcoord.errors import GhcoordError, NoCapacity, NotFound, SandboxError, SessionLost, Unavailable, UsageError
from ghcoord.execution.session.entry import Entry, Running, do_nothing
from ghcoord.execution.session.folder import SessionFolder, SessionsHome
from ghcoord.execution.session.journal import TASK, Journal, content_of
from ghcoord.execution.session.local import LocalSessions
from ghcoord.execution.session.opening import Opening
from ghcoord.execution.summary import Log
from ghcoord.execution.tools.kit import Kit
from ghcoord.hub import Hub
from ghcoord.model.session import CallNote, Session, SessionReport, SessionState, Usage
from ghcoord.model.task import Task, TaskResult
from ghcoord.model.tool import Tool

if TYPE_CHECKING:
    from ghcoord.execution.checkpoints.checkpoints import Checkpoints

UNHEARD = frozenset({"lost", "given back"})
"""Ends of attempts of which the hub has no result."""

CLOSE_WAIT = 30.0
"""Seconds that a call waits for another placement's files to get out of the way."""


class Entering(LocalSessions):
    """The open sessions of a worker, and the calls in them; see :class:`ghcoord.execution.session.pool.SessionPool`."""

    def __init__(self, hub: Hub, worker_id: str, base: Path, kit: Kit, checkpoints: Checkpoints, log: Log) -> None:
        self.hub = hub
        self.worker_id = worker_id
        self.kit = kit
        self.checkpoints = checkpoints
        self.log = log
        self.home = SessionsHome(base, hub.id, worker_id)
        self._runtime = hub.runtime
        self._opening = Opening(self.home, kit, checkpoints, log)
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._resting: dict[str, int] = {}
        """Sessions that have files here and were not opened since the start, with their epochs."""
        self._lost: dict[str, SessionReport] = {}
        self._handles = 0
        self._draining = False
        self._paused = ""
        """Why callers in this process have to wait; empty when they do not."""
        self._pauses = 0
        """How often that has begun."""
        self._tools: dict[str, Tool] = {}
        self.lease_runs: Callable[[], bool] = lambda: True
        """Whether the worker's lease still counts: asked, since a process that was paused is not told in time."""
        self.on_news: Callable[[], None] = do_nothing
        """Told when there is something that the hub should hear soon."""

    @abstractmethod
    def _put_away(self, entry: Entry) -> None:
        """Its last call has ended: remove its files."""

    def serve(self, tools: Mapping[str, Tool]) -> None:
        """Offer these tools to callers in this process."""
        self._tools = dict(tools)

    # -- what runs in a session

    @contextmanager
    def enter(
        self,
        session_id: str,
        *,
        tool: str,
        task_id: str,
        cancel: Callable[[], None] = do_nothing,
        limited: bool = False,
    ) -> Iterator[SessionFolder]:
        """The session's files, for one call; opened first if they are not open.

        ``cancel`` is called when the session is destroyed or moved meanwhile.
        With ``limited`` more calls than the session's limit raise
        ``NoCapacity``; calls through the hub are held to it there.  So does a
        session that another worker has, or none.

        Raises ``SandboxError`` for faults of this machine, after which it may
        be tried again, ``SessionLost``, ``NotFound``, and what the hub raises.
        """
        entry, folder, handle = self._acquire(session_id, Running(tool, task_id, cancel), limited)
        try:
            yield folder
        finally:
            self._release(entry, handle)

    def open_epoch(self, session_id: str) -> int | None:
        """The epoch of the placement under which the session is open here; ``None`` when it is not."""
        with self._lock:
            entry = self._entries.get(session_id)
            return None if entry is None or entry.closing else self._epoch(entry)

    def note(self, session_id: str, note: CallNote) -> None:
        """A call has ended so; told before it leaves the session."""
        with self._lock:
            if (entry := self._entries.get(session_id)) is not None:
                entry.note(note)

    def remembered(self, session_id: str, task: Task) -> TaskResult | None:
        """How an attempt of a call with a key ended in these files of which the hub never heard."""
        journal, digest = self._journal(session_id), content_of(task.tool, task.args)
        for attempt in reversed(task.history if journal is not None else ()):
            if attempt.outcome not in UNHEARD:
                return None  # that one was heard, and this is another try
            try:
                if journal is not None and (found := journal.find(_attempt(task, attempt.token), digest)) is not None:
                    return found
            except (UsageError, OSError) as error:
                self.log("warn", f"session {session_id}: what is noted of the call {task.id} cannot be used: {error}")
        return None

    def remember(self, session_id: str, task: Task, token: int, result: TaskResult) -> None:
        """Note how such an attempt ended, before the hub hears it: it is not made again when this worker dies."""
        journal = self._journal(session_id)
        try:
            if journal is not None:
                journal.note(_attempt(task, token), content_of(task.tool, task.args), result)
        except OSError as error:
            self.log("warn", f"session {session_id}: a call could not be noted, it may run again: {error}")

    def _journal(self, session_id: str) -> Journal | None:
        with self._lock:
            entry = self._entries.get(session_id)
            return None if entry is None else entry.journal

    def used(self, session_id: str, usage: Usage) -> None:
        """A command of the session has ended and used so much."""
        with self._lock:
            entry = self._entries.get(session_id)
        if entry is not None:
            entry.meter.add(usage)

    def _acquire(self, session_id: str, running: Running, limited: bool) -> tuple[Entry, SessionFolder, int]:
        deadline = self._runtime.monotonic() + CLOSE_WAIT
        while True:
            mine = False
            with self._lock:
                entry = self._entries.get(session_id)
                if limited and (self._paused or not self.lease_runs()):
                    why = self._paused or "could not renew its lease"
                    raise Unavailable(f"the worker {self.worker_id} {why}: try again when it is back")
                if self._draining and (limited or entry is None):
                    raise NoCapacity(f"the worker {self.worker_id} is draining: it takes no more calls", self.worker_id)
                if entry is None:
                    mine = True
                    entry = self._entries[session_id] = Entry(session_id, self._runtime.event(), self._runtime.event())
                elif entry.folder is not None and not entry.closing:
                    self._gate(entry, entry.folder, limited)
                    return entry, entry.folder, self._begin(entry, running)
            if mine:
                self._open(entry)
            elif entry.closing:
                if not entry.closed.wait(max(0.0, deadline - self._runtime.monotonic())):
                    raise SandboxError(f"the session {session_id} is being closed here: {entry.closing}")
            else:
                entry.ready.wait()

    def _gate(self, entry: Entry, folder: SessionFolder, limited: bool) -> None:
        most = folder.limits.active_tasks
        if limited and most is not None and len(entry.running) >= most:
            raise NoCapacity(
                f"the session {entry.id} runs {len(entry.running)} calls, which is its limit: "
                "wait for one to end, or create it with a higher limit active_tasks",
                self.worker_id,
            )

    def _begin(self, entry: Entry, running: Running) -> int:
        """A call enters. Under the lock."""
        self._handles += 1
        entry.running[self._handles] = running
        entry.last_active = max(entry.last_active, self._now())
        if running.tool:
            entry.saved = ""
            entry.moves += 1
        return self._handles

    def _release(self, entry: Entry, handle: int) -> None:
        with self._lock:
            entry.running.pop(handle, None)
            entry.moves += 1
            entry.last_active = max(entry.last_active, self._now())
            last = bool(entry.closing) and not entry.running
        if last:
            self._put_away(entry)
        elif not entry.closing and entry.meter.due(self._runtime.monotonic()):
            self._runtime.spawn(partial(self._measure, entry), "ghcoord-usage")

    def _measure(self, entry: Entry) -> None:
        """Count the files, in a thread of its own."""
        size = None
        try:
            if entry.folder is not None:
                size = entry.folder.files.usage()[0]
        except (GhcoordError, OSError, ValueError) as error:
            self.log("debug", f"the files of session {entry.id} could not be counted: {error}")
        finally:
            entry.meter.measured(size, self._runtime.monotonic())

    # -- opening

    def _open(self, entry: Entry) -> None:
        """Bring the session's files; whoever waits goes on afterwards, and tries itself when it failed."""
        session = None
        try:
            session = self._session(entry.id)
            opened = self._opening.open(session)
            journal = Journal(opened.folder.journal_path)
        except BaseException as error:
            with self._lock:
                self._entries.pop(entry.id, None)
                if isinstance(error, SessionLost) and session is not None:
                    self._lost[entry.id] = SessionReport(id=entry.id, epoch=session.epoch, lost=error.message[:500])
            entry.closed.set()
            entry.ready.set()
            if isinstance(error, SessionLost):
                self.on_news()
            if isinstance(error, OSError):
                raise SandboxError(f"the session {entry.id} could not be opened: {error}") from error
            raise
        with self._lock:
            self._resting.pop(entry.id, None)
            entry.opened(opened.folder, journal, opened.restored_from, self._now())
        self.on_news()

    def _session(self, session_id: str) -> Session:
        """The record of a session that this worker has. Raises as :meth:`enter`."""
        if not self.home.hold():
            raise SandboxError(f"another process has the sessions of the worker {self.worker_id}: {self.home.folder}")
        session = self.hub.sessions.get(session_id)
        if session is None:
            raise NotFound(f"there is no session {session_id!r}")
        if session.worker_id != self.worker_id:
            if session.state is SessionState.LOST:
                raise SessionLost(session.lost_because or f"the files of session {session_id!r} are gone", session_id)
            where = f"with worker {session.worker_id}" if session.worker_id else "with no worker"
            raise NoCapacity(f"the session {session_id} is {where} now", self.worker_id)
        return session

    @staticmethod
    def _epoch(entry: Entry) -> int | None:
        return None if entry.folder is None else entry.folder.epoch

    def _now(self) -> float:
        return self.hub.now().timestamp()


def _attempt(task: Task, token: int) -> str:
    return f"{TASK}{task.id}:{token}"
