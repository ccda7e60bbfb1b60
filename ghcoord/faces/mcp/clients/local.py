"""Sessions in this process: the server is a worker of the hub itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ghcoord.errors import GhcoordError, NoCapacity, NotFound, SandboxError
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.clients import common
from ghcoord.faces.mcp.clients.base import Executed, Progressed, Said
from ghcoord.faces.mcp.clients.places import Places
from ghcoord.faces.mcp.clients.remote import HubWorkerClient
from ghcoord.model.session import Checkpoint, Session, SessionStatus
from ghcoord.model.tool import Tool

if TYPE_CHECKING:
    from ghcoord.execution.session.pool import SessionPool


class LocalWorkerClient:
    """The sessions of this process's own worker. Implements ``WorkerClient``.

    Its calls make no task and wait for no tick.  Sessions that another worker
    has, or none since an earlier server ended, are reached through the hub.
    New sessions need at least the ``sandbox`` tier that is named.  ``fetches``
    is for a worker without slots, to which none comes by itself: it takes those
    that no worker has from their last checkpoint.
    """

    def __init__(self, pool: SessionPool, *, sandbox: str = "full", fetches: bool = False) -> None:
        self._pool = pool
        self._sandbox = sandbox
        self._fetches = fetches
        self._hub = pool.hub
        self._places = Places()
        self._elsewhere = HubWorkerClient(pool.hub, places=self._places)
        self._closed = self._hub.runtime.event()

    def tools(self) -> list[Tool]:
        """What this worker offers."""
        return self._pool.tools()

    def create(
        self,
        caller: Caller,
        *,
        metadata: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        limits: Mapping[str, Any] | None = None,
        allow: Sequence[str] = (),
    ) -> Session:
        """A session here, opened. Raises as ``hub.sessions.create`` does, and ``SandboxError``."""
        session = common.create(
            self._hub,
            self._make,
            caller,
            metadata=metadata,
            env=env,
            limits=limits,
            allow=allow,
            sandbox=self._sandbox,
        )
        self._places.know(session)
        return session

    def _make(self, session_id: str, **settings: Any) -> Session:
        try:
            return self._pool.create(session_id, **settings)
        except SandboxError:
            with suppress(GhcoordError):
                self._pool.destroy(session_id)
            raise

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
        """Run a tool in this thread, or through the hub where the session is not here.

        Raises as ``LocalSessions.call`` does, and as :meth:`HubWorkerClient.execute`.
        """

        def given_up() -> bool:
            return cancelled() or self._closed.is_set()

        told: dict[str, Any] = {"timeout": timeout, "trace": trace, "log": log, "progress": progress}
        if not self._is_here(session_id):
            return self._elsewhere.execute(session_id, tool, args, cancelled=given_up, **told)
        try:
            result = self._pool.call(session_id, tool, dict(args), cancelled=given_up, **told)
        except NoCapacity:
            if self._is_here(session_id):
                raise
            return self._elsewhere.execute(session_id, tool, args, cancelled=given_up, **told)
        if given_up() or self._places.is_at(session_id, self._pool.open_epoch(session_id)):
            return Executed(result)
        return Executed(result, common.notices(self._hub, self._places, session_id))

    def _is_here(self, session_id: str) -> bool:
        """Whether this worker has the session, or takes it now. Raises ``NotFound``."""
        if self._places.is_at(session_id, self._pool.open_epoch(session_id)):
            return True
        session = self._hub.sessions.get(session_id)
        if session is None:
            raise NotFound(f"there is no session {session_id[:128]!r}, or it has ended")
        self._places.know_first(session)
        if self._fetches and session.worker_id is None and session.checkpoints:
            session = self._pool.restore(session_id)
        return session.worker_id == self._pool.worker_id

    def status(self, session_id: str) -> SessionStatus:
        """From memory where it is open here. Raises ``NotFound``."""
        return self._pool.status(session_id)

    def destroy(self, session_id: str) -> None:
        """End the session. Raises ``NotFound``."""
        common.destroy(self._hub, self._pool.destroy, session_id)
        self._places.forget(session_id)

    def checkpoint(self, session_id: str, name: str = "") -> Checkpoint:
        """Save its files as they are. Raises as :meth:`execute`."""
        if not self._is_here(session_id):
            return self._elsewhere.checkpoint(session_id, name)
        return self._pool.checkpoint(session_id, name)

    def restore(self, session_id: str, checkpoint: str | None = None, *, new_id: str | None = None) -> Session:
        """Start it again from a checkpoint, here. Raises as ``hub.sessions.restore`` does."""
        session = common.restore(self._hub, self._pool.restore, session_id, checkpoint, new_id)
        self._places.know(session)
        return session

    def close(self) -> None:
        """Cancel the calls that run."""
        self._closed.set()
        self._elsewhere.close()
