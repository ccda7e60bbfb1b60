"""One task while a worker has it: what the tool is given, and what it has said."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ghcoord.clock import Runtime, Thread
from ghcoord.coord.sessions.differences import Diff
from ghcoord.coord.workers.tick import Said
from ghcoord.errors import GhcoordError, SandboxError, TooLarge, UsageError
from ghcoord.execution.fulllog import FullLog
from ghcoord.execution.session.folder import SessionFolder
from ghcoord.model.codec import check_value, stamp
from ghcoord.model.limits import Limits
from ghcoord.model.session import Checkpoint, Usage
from ghcoord.model.task import Task, TaskResult
from ghcoord.model.tool import ToolResult

TAIL = 2000
"""Characters of a running task's output that the hub shows."""

MAX_TEXT = 64 * 1024
"""Characters of one output field that a record keeps, of its beginning and its end; the rest is cut and marked."""

HEAD = MAX_TEXT // 4
"""So many of them are its beginning."""


MAX_DATA = 600_000
"""Bytes of a tool's own fields that a record keeps; a record has at most 1,000,000."""


class Own(Protocol):
    """The private directory of a task of its own; see :class:`ghcoord.execution.places.Places`."""

    limits: Limits

    def make(self, task: Task) -> Path:
        """The directory, new and empty. Raises ``OSError``."""
        ...

    def keep(self, workspace: Path, name: str) -> Path:
        """A folder beside it. Raises ``OSError`` and ``SandboxError``."""
        ...


class Keeper(Protocol):
    """Makes checkpoints; see :class:`ghcoord.execution.session.pool.SessionPool`."""

    def save(self, folder: SessionFolder, name: str = "") -> Checkpoint:
        """Save a session's files."""
        ...

    def compare(self, folder: SessionFolder, a: str | None = None, b: str | None = None, *, text: bool = False) -> Diff:
        """What leads from one checkpoint to another, or to the files as they are."""
        ...


class RunningTask:
    """A leased task on this worker. Implements :class:`ghcoord.model.tool.ToolContext`.

    ``own`` is where it runs unless it is a session's: then :meth:`enter` says where.
    """

    def __init__(self, runtime: Runtime, task: Task, own: Own, used: Callable[[Usage], None]) -> None:
        if task.lease is None:
            raise ValueError(f"task {task.id} has no lease")
        self.task = task
        self.trace = task.trace
        self.token = task.lease.token
        self.made: Path | None = None
        """Its private directory, once it has asked for it."""
        self.fault = ""
        """Why it could not get one."""
        self.thread: Thread | None = None
        self.started = runtime.monotonic()
        self.reported = False
        """Whether its end was reported already, while an in-process function still runs."""
        self.full: FullLog | None = None
        """Takes all of its output."""
        self.returned = False
        """Whether the tool is done: its timeout is, too."""
        self.used = used
        """Told what a command used that has ended."""
        self._runtime = runtime
        self._own = own
        self._folder: SessionFolder | None = None
        self._keeper: Keeper | None = None
        self._lock = threading.Lock()
        self._cancelled = runtime.event()
        self._fraction: float | None = None
        self._message = ""
        self._tail = ""
        self._seen = 0
        self._unsaid = False
        self.stopped_because = ""

    def enter(self, folder: SessionFolder, keeper: Keeper) -> None:
        """It runs in a session, from now on, of which ``keeper`` makes checkpoints."""
        self._folder, self._keeper = folder, keeper
        self.started = self._runtime.monotonic()

    @property
    def task_id(self) -> str:
        return self.task.id

    @property
    def session_id(self) -> str | None:
        return self.task.session

    @property
    def env(self) -> Mapping[str, str]:
        return {} if self._folder is None else self._folder.session.env

    @property
    def limits(self) -> Limits:
        return self._own.limits if self._folder is None else self._folder.limits

    @property
    def allow(self) -> tuple[str, ...]:
        return () if self._folder is None else self._folder.session.allow

    @property
    def workspace(self) -> Path:
        """The session's, or its own, made when it is first asked for: most functions never do. Raises ``OSError``."""
        if self._folder is not None:
            return self._folder.workspace
        with self._lock:
            if self.made is None:
                try:
                    self.made = self._own.make(self.task)
                except OSError as error:
                    self.fault = f"its workspace could not be made: {error.strerror or error}"
                    raise
            return self.made

    def keep(self, name: str) -> Path:
        return self._own.keep(self.workspace, name) if self._folder is None else self._folder.keep(name)

    def checkpoint(self, name: str = "") -> Checkpoint:
        """For ``session.checkpoint``. Raises ``UsageError`` for a task of its own."""
        return self._session()[1].save(self._session()[0], name)

    def diff(self, a: str | None = None, b: str | None = None, *, text: bool = False) -> Diff:
        """For ``session.diff``. Raises ``UsageError`` for a task of its own."""
        return self._session()[1].compare(self._session()[0], a, b, text=text)

    def _session(self) -> tuple[SessionFolder, Keeper]:
        if self._folder is None or self._keeper is None:
            raise UsageError("this works in a session only: create one with 'ghcoord session create'")
        return self._folder, self._keeper

    @property
    def attempt(self) -> int:
        return self.task.attempt

    @property
    def timeout(self) -> float | None:
        asked, most = self.task.timeout, self.limits.timeout
        return most if asked is None else asked if most is None else min(asked, most)

    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self, because: str = "") -> None:
        """Ask the tool to stop. ``because`` names a reason of the worker's own: then the lease is given back."""
        with self._lock:
            if because and not self._cancelled.is_set():
                self.stopped_because = because
        self._cancelled.set()

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        with self._lock:
            self._fraction = None if fraction is None else min(1.0, max(0.0, fraction))
            self._message = message[:500].encode(errors="replace").decode()
            self._unsaid = True

    def log(self, stream: str, text: str) -> None:
        if self.full is not None:
            self.full.add(text)
        with self._lock:
            self._seen += len(text)
            self._tail = (self._tail + text.encode(errors="replace").decode())[-TAIL:]
            self._unsaid = True

    def said(self) -> Said | None:
        """What is new since the last call."""
        with self._lock:
            if not self._unsaid:
                return None
            self._unsaid = False
            return Said(self.task.id, self.token, self._fraction, self._message, self._tail, self._seen)

    def elapsed(self) -> float:
        """Seconds since it began; in a session, since that was open."""
        return self._runtime.monotonic() - self.started

    def overdue(self, slack: float) -> bool:
        """Whether it has run ``slack`` seconds past its timeout; opening its session does not count."""
        limit = None if self.task.session is not None and self._folder is None else self.timeout
        return limit is not None and not self.returned and self.elapsed() > limit + slack


def to_record(result: ToolResult, *, duration: float, now: float) -> TaskResult:
    """A tool's result as the hub keeps it, its texts cut to what a record takes.

    A result whose other values are not JSON, too large for a record, or of the wrong type, is a failure that says so.
    """
    try:
        return _to_record(result, duration, now)
    except (ValueError, TypeError, AttributeError) as error:
        wrong = ToolResult(success=False, error=f"the tool returned no valid result: {type(error).__name__}: {error}")
        return _to_record(wrong, duration, now)


def _to_record(result: ToolResult, duration: float, now: float) -> TaskResult:
    cut = _Cut()
    output, error = cut(result.output), cut(result.error)
    data = {key: cut(value) for key, value in result.data.items()}
    success = result.success
    try:
        check_value(data, "tool's result")
        size = len(json.dumps(data))
    except (UsageError, TooLarge) as refused:
        success, error, data = False, str(refused), {}
    else:
        if size > MAX_DATA:
            success, data = False, {}
            error = f"the tool's result has {size} bytes: at most {MAX_DATA} are kept, write large data to a file"
    return TaskResult(
        success=success,
        output=output,
        error=error,
        exit_code=result.exit_code,
        duration=round(max(0.0, duration), 3),
        data=data,
        truncated=result.truncated or cut.happened,
        artifacts=result.artifacts,
        completed_at=stamp(now),
    )


class _Cut:
    """Makes texts fit: valid Unicode, and of the long ones the beginning and the end, where errors stand."""

    def __init__(self) -> None:
        self.happened = False

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = value.encode(errors="replace").decode()
        if len(text) > MAX_TEXT:
            self.happened = True
            return f"{text[:HEAD]}\n[… {len(text) - MAX_TEXT} characters cut …]\n{text[HEAD - MAX_TEXT :]}"
        return text


def run_guarded(run: Callable[[], ToolResult]) -> ToolResult:
    """The result of ``run``; whatever it raises is a failed result, so that no thread dies silently."""
    try:
        return run()
    except SandboxError as fault:
        return ToolResult(success=False, error=fault.message, infrastructure=True)
    except GhcoordError as error:
        return ToolResult(success=False, error=error.message)
    except Exception as error:
        return ToolResult(success=False, error=f"{type(error).__name__}: {error}")
