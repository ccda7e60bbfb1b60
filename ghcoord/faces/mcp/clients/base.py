"""What the server asks of workers: sessions, and tools called in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ghcoord.faces.mcp.caller import Caller
from ghcoord.model.session import Checkpoint, Session, SessionStatus
from ghcoord.model.task import TaskResult
from ghcoord.model.tool import Tool

Said = Callable[[str, str], None]
"""Told (stream, text) as output comes."""

Progressed = Callable[[float | None, str], None]


@dataclass(frozen=True, slots=True)
class Executed:
    """How a tool ended, and what the caller has to know besides: sentences such as that the session was restored."""

    result: TaskResult
    notices: tuple[str, ...] = ()


class WorkerClient(Protocol):
    """A way to sessions (reference: ``WorkerClient``, co:227). Its methods may be called from any thread.

    All raise what ``hub.sessions`` raises.  Nobody's right to a session is
    checked here: :mod:`ghcoord.faces.mcp.owners` does that before.
    """

    def tools(self) -> list[Tool]:
        """The tools that can be called in sessions, by name."""
        ...

    def create(
        self,
        caller: Caller,
        *,
        metadata: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        limits: Mapping[str, Any] | None = None,
        allow: Sequence[str] = (),
    ) -> Session:
        """Make a session of the caller's on a worker with room. Raises ``NoCapacity`` saying why there is none."""
        ...

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
        """Run a tool in a session (reference: ``ExecuteTask``) and return how it ended, success or not.

        When ``cancelled`` says so, the processes of the call are ended, and it returns.
        """
        ...

    def status(self, session_id: str) -> SessionStatus:
        """What the session uses and did last."""
        ...

    def destroy(self, session_id: str) -> None:
        """End the session, its calls and its files."""
        ...

    def checkpoint(self, session_id: str, name: str = "") -> Checkpoint:
        """Save its files."""
        ...

    def restore(self, session_id: str, checkpoint: str | None = None, *, new_id: str | None = None) -> Session:
        """Start the session again from a checkpoint, the newest unless given, or make another of it."""
        ...

    def close(self) -> None:
        """Let go of what this holds."""
        ...
