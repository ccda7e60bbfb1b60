"""Sessions on the workers of the hub: whichever has room, and the same one for all calls of a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ghcoord.errors import NotFound, SessionLost, TaskFailed
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.clients import common
from ghcoord.faces.mcp.clients.base import Executed, Progressed, Said
from ghcoord.faces.mcp.clients.following import START_WAIT, Following
from ghcoord.faces.mcp.clients.places import Places
from ghcoord.hub import Hub
from ghcoord.model.session import Checkpoint, Session, SessionState, SessionStatus
from ghcoord.model.task import State, Task, TaskResult
from ghcoord.model.tool import Tool

SAVE_TIMEOUT = 300.0
"""Seconds that a worker has to save a session's files."""


class HubWorkerClient:
    """The hub's workers (reference: ``NewRealWorkerClient``). Implements ``WorkerClient``.

    A call that no worker takes within ``start_wait`` seconds is withdrawn.
    New sessions need at least the ``sandbox`` tier that is named.  ``places``
    is shared with another client of the same server.
    """

    def __init__(
        self, hub: Hub, *, sandbox: str = "full", places: Places | None = None, start_wait: float = START_WAIT
    ) -> None:
        self._hub = hub
        self._sandbox = sandbox
        self._places = places or Places()
        self._start_wait = start_wait
        self._closed = hub.runtime.event()
        self._tools: list[Tool] = []

    def tools(self) -> list[Tool]:
        """The tools of this version's workers. One may lack some: then a call says so."""
        if not self._tools:
            from ghcoord.bootstrap import describe_tools

            self._tools = describe_tools()
        return list(self._tools)

    def create(
        self,
        caller: Caller,
        *,
        metadata: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        limits: Mapping[str, Any] | None = None,
        allow: Sequence[str] = (),
    ) -> Session:
        """A session on the worker with the fewest. Raises as ``hub.sessions.create`` does."""
        session = common.create(
            self._hub,
            self._hub.sessions.create,
            caller,
            metadata=metadata,
            env=env,
            limits=limits,
            allow=allow,
            sandbox=self._sandbox,
        )
        self._places.know(session)
        return session

    def execute(
        self,
        session_id: str,
        tool: str,
        args: Mapping[str, Any],
        *,
        timeout: float | None = None,
        trace: str = "",
        log: Said | None = None,
        progress: Progressed | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Executed:
        """Have the session's worker run a tool, and wait for it.

        Where that worker is gone the session goes on elsewhere from its
        checkpoint, which a notice says.  Raises as :class:`Following` does, and
        ``SessionLost`` and ``NotFound`` where the session ended meanwhile.
        """

        def given_up() -> bool:
            return cancelled() or self._closed.is_set()

        before = self._hub.sessions.get(session_id)
        if before is not None:
            self._places.know_first(before)
        task = Following(
            self._hub,
            session_id,
            tool,
            args,
            timeout=timeout,
            trace=trace,
            log=log,
            progress=progress,
            cancelled=given_up,
            start_wait=self._start_wait,
        ).run()
        result = self._result(session_id, task, given_up())
        if given_up():
            return Executed(result)  # nobody hears a notice: the next call gets it
        notices = common.notices(self._hub, self._places, session_id, task.id)
        return Executed(result, (*notices, *_begun_again(task)))

    def _result(self, session_id: str, task: Task, given_up: bool) -> TaskResult:
        if task.result is not None and task.ended:
            return task.result
        if not task.ended:
            return TaskResult(
                success=False,
                error=f"the call was cancelled, but its worker has not said yet that it stopped (task {task.id})",
            )
        if not given_up:
            session = self._hub.sessions.get(session_id, touch=False)
            if session is None:
                raise NotFound(f"the session {session_id[:128]!r} ended before the call had")
            if session.state is SessionState.LOST:
                raise SessionLost(f"the session {session_id} was lost: {session.lost_because}", session_id)
        return TaskResult(
            success=False,
            error=f"the call was cancelled: {task.cancel_reason or 'its worker ended it'}",
            completed_at=task.ended_at,
        )

    def status(self, session_id: str) -> SessionStatus:
        """As its worker last told. Raises ``NotFound``."""
        return self._hub.sessions.status(session_id)

    def destroy(self, session_id: str) -> None:
        """End the session. Raises ``NotFound``."""
        common.destroy(self._hub, self._hub.sessions.destroy, session_id)
        self._places.forget(session_id)

    def checkpoint(self, session_id: str, name: str = "") -> Checkpoint:
        """Have its worker save the files. Raises as :meth:`execute`, and ``TaskFailed`` saying why it could not."""
        args = {"name": name} if name else {}
        result = self.execute(session_id, "session.checkpoint", args, timeout=SAVE_TIMEOUT).result
        if not result.success or "checkpoint" not in result.data:
            raise TaskFailed(result.error or "the worker returned no checkpoint")
        return Checkpoint.model_validate(result.data["checkpoint"])

    def restore(self, session_id: str, checkpoint: str | None = None, *, new_id: str | None = None) -> Session:
        """Start it again from a checkpoint, where it is or where there is room. Raises as ``hub.sessions.restore``."""
        session = common.restore(self._hub, self._hub.sessions.restore, session_id, checkpoint, new_id)
        self._places.know(session)
        return session

    def close(self) -> None:
        """Cancel the calls that run: nobody waits for them."""
        self._closed.set()


def _begun_again(task: Task) -> tuple[str, ...]:
    """Say that the call was begun more than once: what it did before, beyond the session's files, happened twice."""
    lost = [one.worker for one in task.history if one.outcome == "lost"]
    if not lost or task.state not in (State.SUCCEEDED, State.DEAD):
        return ()
    return (f"The worker {lost[-1]} went away while this call ran on it: it was run again from its start",)
