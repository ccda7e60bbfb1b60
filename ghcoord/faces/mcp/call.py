"""A call as tools see it: who calls, what the server has, and how to tell the caller of progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ghcoord.clock import Runtime
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.quota import SessionQuota

if TYPE_CHECKING:
    from ghcoord.faces.mcp.clients.base import WorkerClient
    from ghcoord.faces.mcp.outputs import Outputs
    from ghcoord.faces.mcp.owners import Owners
    from ghcoord.hub import Hub

MAX_WAIT = 45.0
"""Seconds that a tool waits at most: clients give up after 60 (facts/mcp.md)."""

Progressed = Callable[[float | None, str], None]


@dataclass(frozen=True)
class Services:
    """What the tools of one server share.

    ``workers`` runs sessions, here or on the hub's workers; ``outputs`` keeps
    what was too long for an answer; ``owners`` tells whose a session is, and
    ``quota`` how many a user may have.
    """

    hub: Hub
    workers: WorkerClient
    outputs: Outputs
    owners: Owners
    quota: SessionQuota = field(default_factory=SessionQuota)

    @property
    def runtime(self) -> Runtime:
        return self.hub.runtime


def _nowhere(fraction: float | None, message: str) -> None:
    """Nobody asked for progress."""


@dataclass(frozen=True)
class Call:
    """One call of a tool. Runs in a thread of its own; its functions may be called from any thread.

    ``trace`` is the W3C ``traceparent`` of the call, to be passed on to tasks.
    ``cancelled`` says whether the client gave the call up.
    """

    caller: Caller
    services: Services
    trace: str = ""
    cancelled: Callable[[], bool] = field(default=lambda: False)
    progress: Progressed = field(default=_nowhere)

    @property
    def hub(self) -> Hub:
        return self.services.hub

    @property
    def workers(self) -> WorkerClient:
        return self.services.workers

    def wait_until(self, seconds: float) -> float:
        """When, by the monotonic clock, a wait of ``seconds`` ends, at most :data:`MAX_WAIT`."""
        return self.services.runtime.monotonic() + min(max(seconds, 0.0), MAX_WAIT)
