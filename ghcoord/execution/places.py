"""Where a worker's tasks run: each in a directory of its own, or in the workspace of its session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ghcoord.clock import Runtime
from ghcoord.coord.sessions.calling import is_marked
from ghcoord.errors import GhcoordError, NoCapacity, NotFound, SessionLost, UsageError
from ghcoord.execution import spans
from ghcoord.execution.running import RunningTask, run_guarded, to_record
from ghcoord.execution.sandbox.base import Identity
from ghcoord.execution.spans import Kind
from ghcoord.execution.workspace import Workspaces
from ghcoord.model.codec import stamp
from ghcoord.model.limits import DEFAULT_LIMITS, Limits
from ghcoord.model.session import CallNote, Usage
from ghcoord.model.task import Task, TaskResult
from ghcoord.model.tool import Tool, ToolResult

if TYPE_CHECKING:
    from ghcoord.execution.session.pool import SessionPool

MAX_NOTED = 300
"""Characters of an error that a session's record remembers."""


class Places:
    """Gives tasks their place and runs them there.

    A task that is no session's may use ``limits``, and what it keeps belongs to
    ``identity``; ``pool`` has the sessions, ``None`` on a worker without any.
    """

    def __init__(
        self,
        workspaces: Workspaces,
        *,
        limits: Limits = DEFAULT_LIMITS,
        identity: Identity | None = None,
        pool: SessionPool | None = None,
    ) -> None:
        self.limits = limits
        self._workspaces = workspaces
        self._identity = identity
        self._pool = pool

    def take(self, runtime: Runtime, task: Task) -> RunningTask:
        """A leased task that is about to run."""

        def used(usage: Usage) -> None:
            if self._pool is not None and task.session is not None:
                self._pool.used(task.session, usage)

        return RunningTask(runtime, task, self, used)

    def make(self, task: Task) -> Path:
        """A private directory for an attempt. Raises ``OSError``."""
        return self._workspaces.make(task.id, task.attempt)

    def keep(self, workspace: Path, name: str) -> Path:
        """A folder beside an attempt's directory. Raises ``OSError`` and ``SandboxError``."""
        return self._workspaces.keep(workspace, name, self._identity)

    def clear(self, one: RunningTask) -> None:
        """Remove what a task of its own has left."""
        if one.made is not None:
            self._workspaces.remove(one.made)

    def run(self, one: RunningTask, tool: Tool | None, now: Callable[[], float]) -> ToolResult:
        """How the attempt ended; a fault of this machine is ``infrastructure``. ``now`` is the hub's clock."""
        task = one.task
        if tool is None:
            return ToolResult(success=False, error=f"this worker has no tool {task.tool!r}", infrastructure=True)
        told: spans.Attributes = {
            "ghcoord.task": task.id,
            "ghcoord.attempt": task.attempt,
            "ghcoord.session": task.session,
        }
        with spans.span(f"task {tool.name}", task.trace, told, Kind.CONSUMER) as span:
            one.trace = span.trace
            result = self._run(one, tool, now)
            span.ended(bool(result.success))
        return result

    def _run(self, one: RunningTask, tool: Tool, now: Callable[[], float]) -> ToolResult:
        task = one.task
        if task.session is None:
            return run_guarded(lambda: tool.run(dict(task.args), one))
        if self._pool is None:
            return ToolResult(success=False, error="this worker has no sessions", infrastructure=True)
        return self._in_session(self._pool, task.session, one, tool, now)

    def _in_session(
        self, pool: SessionPool, session: str, one: RunningTask, tool: Tool, now: Callable[[], float]
    ) -> ToolResult:
        def cancel() -> None:
            one.cancel("its session was destroyed or is elsewhere now")

        try:
            with pool.enter(session, tool=tool.name, task_id=one.task_id, cancel=cancel) as folder:
                one.enter(folder, pool)
                marked = is_marked(one.task_id)
                if marked and (first := pool.remembered(session, one.task)) is not None:
                    return _as_before(first)
                result = run_guarded(lambda: tool.run(dict(one.task.args), one))
                if not (result.infrastructure or (one.stopped_because and not result.success)):
                    pool.note(session, _note(one, tool, result, now()))
                    if marked:
                        pool.remember(
                            session, one.task, one.token, to_record(result, duration=one.elapsed(), now=now())
                        )
                return result
        except (SessionLost, UsageError) as refused:
            return ToolResult(success=False, error=refused.message)
        except (NoCapacity, NotFound) as elsewhere:
            one.cancel(elsewhere.message)
            return ToolResult(success=False, error=elsewhere.message)
        except (GhcoordError, OSError) as fault:
            return ToolResult(success=False, error=str(fault), infrastructure=True)


def _as_before(first: TaskResult) -> ToolResult:
    """The result that the call had when it ran."""
    return ToolResult(
        success=first.success,
        output=first.output,
        error=first.error,
        exit_code=first.exit_code,
        data=dict(first.data),
        truncated=first.truncated,
        artifacts=first.artifacts,
    )


def _note(one: RunningTask, tool: Tool, result: ToolResult, at: float) -> CallNote:
    error = result.error if isinstance(result.error, str) else ""
    return CallNote(
        tool=tool.name,
        task=one.task_id,
        success=bool(result.success),
        at=stamp(at),
        duration=round(max(0.0, one.elapsed()), 3),
        error=error[:MAX_NOTED].encode(errors="replace").decode(),
    )
