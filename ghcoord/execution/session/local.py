"""Sessions for a program in the worker's own process: calls that make no task, and what the hub offers for sessions."""

from __future__ import annotations

import builtins
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghcoord.clock import Runtime
from ghcoord.coord.sessions.differences import Diff
from ghcoord.errors import LeaseLost, NotFound, SandboxError, UsageError
from ghcoord.execution import spans
from ghcoord.execution.running import run_guarded, to_record
from ghcoord.execution.session.entry import Entry
from ghcoord.execution.session.folder import SessionFolder
from ghcoord.execution.session.journal import call_name, content_of
from ghcoord.execution.summary import Log
from ghcoord.hub import Hub
from ghcoord.ids import new_op_id
from ghcoord.model.codec import stamp
from ghcoord.model.limits import Limits
from ghcoord.model.session import CallNote, Checkpoint, Session, SessionStatus, Usage
from ghcoord.model.task import TaskResult
from ghcoord.model.tool import Tool, json_problem
from ghcoord.tracing import checked

if TYPE_CHECKING:
    from ghcoord.execution.checkpoints.checkpoints import Checkpoints
    from ghcoord.execution.tools.kit import Kit

Said = Callable[[str, str], None]
"""Told (stream, text) as output comes."""

Progressed = Callable[[float | None, str], None]
"""Told (fraction, message) as a tool says how far it is."""

MAX_TIMEOUT = 7 * 86400.0
"""Seconds that a call may be given."""


class LocalCall:
    """A call of a program in this process. Implements :class:`ghcoord.model.tool.ToolContext`."""

    attempt = 1

    def __init__(
        self,
        runtime: Runtime,
        task_id: str,
        timeout: float | None,
        log: Said | None,
        progress: Progressed | None,
        cancelled: Callable[[], bool] | None,
        used: Callable[[Usage], None],
        trace: str = "",
    ) -> None:
        self.task_id = task_id
        self.trace = trace
        self.folder: SessionFolder | None = None
        self._sessions: LocalSessions
        self._timeout = timeout
        self._log = log
        self._progress = progress
        self._asked = cancelled
        self._used = used
        self._cancelled = runtime.event()

    def enter(self, folder: SessionFolder, sessions: LocalSessions) -> None:
        """It runs in this session, from now on."""
        self.folder = folder
        self._sessions = sessions

    def checkpoint(self, name: str = "") -> Checkpoint:
        """For ``session.checkpoint``."""
        return self._sessions.save(self._place(), name)

    def diff(self, a: str | None = None, b: str | None = None, *, text: bool = False) -> Diff:
        """For ``session.diff``."""
        return self._sessions.compare(self._place(), a, b, text=text)

    def _place(self) -> SessionFolder:
        if self.folder is None:
            raise ValueError(f"the call {self.task_id} is in no session yet")
        return self.folder

    @property
    def workspace(self) -> Path:
        return self._place().workspace

    @property
    def timeout(self) -> float | None:
        most = self.limits.timeout
        return most if self._timeout is None else self._timeout if most is None else min(self._timeout, most)

    @property
    def session_id(self) -> str | None:
        return self._place().session.id

    @property
    def env(self) -> Mapping[str, str]:
        return self._place().session.env

    @property
    def limits(self) -> Limits:
        return self._place().limits

    @property
    def allow(self) -> tuple[str, ...]:
        return self._place().session.allow

    def keep(self, name: str) -> Path:
        return self._place().keep(name)

    def used(self, usage: Usage) -> None:
        """A command has ended that used so much."""
        self._used(usage)

    def cancelled(self) -> bool:
        if not self._cancelled.is_set() and self._asked is not None and self._asked():
            self._cancelled.set()
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the tool to stop."""
        self._cancelled.set()

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        if self._progress is not None:
            self._progress(None if fraction is None else min(1.0, max(0.0, fraction)), message)

    def log(self, stream: str, text: str) -> None:
        if self._log is not None:
            self._log(stream, text)


class LocalSessions(ABC):
    """What callers in this process use; the names are those of ``hub.sessions``."""

    hub: Hub
    worker_id: str
    kit: Kit
    checkpoints: Checkpoints
    log: Log
    _runtime: Runtime
    _lock: threading.Lock
    _entries: dict[str, Entry]
    _tools: dict[str, Tool]
    _pauses: int
    lease_runs: Callable[[], bool]

    @abstractmethod
    def enter(
        self, session_id: str, *, tool: str, task_id: str, cancel: Callable[[], None] = ..., limited: bool = ...
    ) -> AbstractContextManager[SessionFolder]:
        """The session's files, for one call."""

    @abstractmethod
    def note(self, session_id: str, note: CallNote) -> None:
        """A call has ended so."""

    @abstractmethod
    def used(self, session_id: str, usage: Usage) -> None:
        """A command has ended and used so much."""

    @abstractmethod
    def dropped(self, session_id: str, why: str, *, but: int | None = None) -> None:
        """The session's files are over, unless they are those of the placement ``but``."""

    # -- calls

    def call(
        self,
        session_id: str,
        tool: str,
        args: dict[str, Any],
        *,
        timeout: float | None = None,
        key: str | None = None,
        sequence: int | None = None,
        log: Said | None = None,
        progress: Progressed | None = None,
        cancelled: Callable[[], bool] | None = None,
        trace: str = "",
    ) -> TaskResult:
        """Run a tool in a session of this worker, in the calling thread, and return how it ended.

        ``log`` and ``progress`` are told as it goes on, from other threads;
        when ``cancelled`` says so it is stopped, its processes killed.  A call
        with a ``key`` or ``sequence`` number that was made before returns that
        result, also after a restart; while it is still running, waits for it.
        ``trace`` is a W3C traceparent to pass on.

        Raises ``UsageError`` for a tool or arguments that do not exist, or a
        key that named another call, ``NoCapacity`` when the session runs as
        many calls as it may, ``SessionLost``, ``NotFound``, ``SandboxError`` when
        the call could not be made at all, and ``LeaseLost`` when another worker
        may have got the session while it ran.
        """
        chosen = self.tool(tool)
        chosen.check(args)
        if timeout is not None and not 0 < timeout <= MAX_TIMEOUT:
            raise UsageError(f"the timeout must be more than 0 and at most {MAX_TIMEOUT:.0f} seconds")
        name = call_name(key, sequence)
        if name is not None and (problem := json_problem(args, "args")):
            raise UsageError(f"a call with a key takes JSON only: {problem}")
        digest = "" if name is None else content_of(tool, args)
        task_id = f"call-{new_op_id(self._runtime.randbits)[:16]}"
        used = partial(self.used, session_id)
        call = LocalCall(self._runtime, task_id, timeout, log, progress, cancelled, used, checked(trace))
        with self.enter(session_id, tool=tool, task_id=task_id, cancel=call.cancel, limited=True) as folder:
            call.enter(folder, self)
            if name is None:
                return self._run(chosen, args, call)
            return self._once(name, digest, call, lambda: self._run(chosen, args, call))

    def tools(self) -> builtins.list[Tool]:
        """What can be called, by name."""
        return [self._tools[name] for name in sorted(self._tools)]

    def tool(self, name: str) -> Tool:
        """The tool called ``name``. Raises ``UsageError`` naming those there are."""
        found = self._tools.get(name)
        if found is None:
            raise UsageError(f"this worker has no tool {str(name)[:64]!r}: one of {', '.join(sorted(self._tools))}")
        return found

    def _run(self, tool: Tool, args: dict[str, Any], call: LocalCall) -> TaskResult:
        started, pauses = self._runtime.monotonic(), self._pauses
        told = {"ghcoord.session": call.session_id, "ghcoord.worker": self.worker_id}
        with spans.span(f"call {tool.name}", call.trace, told) as span:
            call.trace = span.trace
            result = run_guarded(lambda: tool.run(dict(args), call))
            span.ended(bool(result.success))
        if self._pauses != pauses or not self.lease_runs():
            raise LeaseLost(f"the worker {self.worker_id} lost its lease while the call ran: its files may be given up")
        if result.infrastructure:
            raise SandboxError(result.error or "the sandbox could not be set up")
        now = self.hub.now().timestamp()
        record = to_record(result, duration=self._runtime.monotonic() - started, now=now)
        if call.session_id is not None:
            self.note(call.session_id, call_note(tool.name, call.task_id, record))
        return record

    def _once(self, name: str, digest: str, call: LocalCall, run: Callable[[], TaskResult]) -> TaskResult:
        """The result of the first call of this name; ``run`` makes it if there was none."""
        folder = call.folder
        assert folder is not None
        session_id = folder.session.id
        while True:
            with self._lock:
                entry = self._entries.get(session_id)
                journal = None if entry is None or entry.folder is not folder else entry.journal
                if entry is None or journal is None:
                    raise SandboxError(f"the session {session_id} was closed")
                other = entry.under_way.get(name)
                if other is None:
                    mine = entry.under_way[name] = self._runtime.event()
                    break
            while not other.wait(0.25):
                if call.cancelled():
                    return TaskResult(success=False, error="cancelled", completed_at=stamp(self.hub.now().timestamp()))
        try:
            first = journal.find(name, digest)
            if first is not None:
                return first
            result = run()
            if result.success or not call.cancelled():
                try:
                    journal.note(name, digest, result)
                except OSError as error:
                    self.log("warn", f"session {session_id}: a call could not be noted, it may run again: {error}")
            return result
        finally:
            with self._lock:
                entry.under_way.pop(name, None)
            mine.set()

    # -- sessions

    def create(self, session_id: str | None = None, **settings: Any) -> Session:
        """Make a session on this worker and open it; settings as for ``hub.sessions.create``."""
        session = self.hub.sessions.create(session_id, worker=self.worker_id, **settings)
        with self.enter(session.id, tool="", task_id=""):
            return session

    def get(self, session_id: str) -> Session | None:
        """The session's record; asking counts as activity. ``None`` when there is none."""
        with self._lock:
            entry = self._entries.get(session_id)
            if entry is not None and entry.folder is not None:
                entry.last_active = max(entry.last_active, self.hub.now().timestamp())
        return self.hub.sessions.get(session_id)

    def list(self, **filters: Any) -> list[Session]:
        """Sessions of the hub; filters as for ``hub.sessions.list``."""
        return self.hub.sessions.list(**filters)

    def count(self, **filters: Any) -> int:
        """How many there are; filters as for ``hub.sessions.list``."""
        return self.hub.sessions.count(**filters)

    def status(self, session_id: str) -> SessionStatus:
        """What the session uses and did last: from memory where it is open here. Raises ``NotFound``."""
        with self._lock:
            entry = self._entries.get(session_id)
            if entry is not None and entry.folder is not None and not entry.closing:
                return entry.status(self.worker_id)
        return self.hub.sessions.status(session_id)

    def metadata(self, session_id: str) -> dict[str, Any]:
        """The session's metadata. Raises ``NotFound``."""
        return self.hub.sessions.metadata(session_id)

    def merge_metadata(self, session_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Set some keys of the metadata; returns all of it. Raises ``NotFound``."""
        return self.hub.sessions.merge_metadata(session_id, metadata)

    def replace_metadata(self, session_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Set all of the metadata. Raises ``NotFound``."""
        return self.hub.sessions.replace_metadata(session_id, metadata)

    def destroy(self, session_id: str) -> None:
        """End the session: its calls are stopped and its files removed. Raises ``NotFound``."""
        self.hub.sessions.destroy(session_id)
        self.dropped(session_id, "it was destroyed")
        self.checkpoints.forget(session_id)

    def clean(self, max_age: float = 1800.0) -> int:
        """Destroy sessions that nobody has used for ``max_age`` seconds; the number destroyed."""
        return self.hub.sessions.clean(max_age)

    # -- checkpoints

    def checkpoint(self, session_id: str, name: str = "") -> Checkpoint:
        """Save the session's files as they are now. Raises as :meth:`call`."""
        with self.enter(session_id, tool="", task_id="") as folder:
            return self.save(folder, name)

    def save(self, folder: SessionFolder, name: str = "") -> Checkpoint:
        """Save an open session's files. Raises ``SandboxError``, ``OSError`` and what the hub raises."""
        session_id = folder.session.id
        with self._lock:
            entry = self._entries.get(session_id)
            moves = entry.moves if entry is not None and len(entry.running) <= 1 else None
        checkpoint = self.checkpoints.save(folder.session, folder, self.kit.sandbox, name=name)
        with self._lock:
            if entry is not None and entry.moves == moves:
                entry.saved = checkpoint.id
        return checkpoint

    def compare(self, folder: SessionFolder, a: str | None = None, b: str | None = None, *, text: bool = False) -> Diff:
        """What leads from checkpoint ``a`` of an open session to ``b``, or to its files as they are.

        ``a`` is the latest unless given.  Raises ``NotFound``.
        """
        session = self.hub.sessions.get(folder.session.id)
        if session is None:
            raise NotFound(f"there is no session {folder.session.id!r}")
        if a is None and not session.checkpoints:
            raise NotFound(f"the session {session.id} has no checkpoint: make one with 'ghcoord session checkpoint'")
        first = session.checkpoints[-1].id if a is None else a
        return self.checkpoints.diff(session, folder, first, b, text=text)

    def diff(self, session_id: str, a: str | None = None, b: str | None = None, *, text: bool = False) -> Diff:
        """What leads from checkpoint ``a``, the latest unless given, to ``b``, or to the files as they are."""
        with self.enter(session_id, tool="", task_id="") as folder:
            return self.compare(folder, a, b, text=text)

    def delete_checkpoint(self, session_id: str, checkpoint: str) -> None:
        """Remove a checkpoint, here and in the hub. Raises ``NotFound``."""
        self.checkpoints.delete(session_id, checkpoint)

    def restore(self, session_id: str, checkpoint: str | None = None, *, new_id: str | None = None) -> Session:
        """Put the session, or a new one, on this worker as a checkpoint has it: the latest unless one is named.

        What it has now is given up.  Raises ``UsageError`` while calls run in it, and as ``hub.sessions.restore``.
        """
        with self._lock:
            entry = self._entries.get(session_id)
            if new_id is None and entry is not None and entry.running:
                raise UsageError(f"{len(entry.running)} calls of the session {session_id} are running: wait for them")
        session = self.hub.sessions.restore(session_id, checkpoint, new_id=new_id, worker=self.worker_id)
        self.dropped(session.id, "it was restored", but=session.epoch)
        with self.enter(session.id, tool="", task_id=""):
            return session


def call_note(tool: str, task_id: str, result: TaskResult) -> CallNote:
    """What a session remembers of a call."""
    at = result.completed_at
    if at is None:
        raise ValueError("a call that has not ended")
    error = result.error[:300].encode(errors="replace").decode()
    return CallNote(tool=tool, task=task_id, success=result.success, at=at, duration=result.duration, error=error)
