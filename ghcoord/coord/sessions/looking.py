"""Sessions looked at, and their metadata changed."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ghcoord.coord.context import GATE_TABLE, SESSION_TABLE, Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.sessions import records, settings
from ghcoord.coord.tasks.calls import gate_key
from ghcoord.errors import Corrupt, InvalidName, NewerSchema, UsageError
from ghcoord.model import session as model
from ghcoord.model.session import Checkpoint, Session, SessionState, SessionStatus
from ghcoord.store.tx import Tx

MAX_TOUCHED = 10_000
"""Sessions of which this process remembers that somebody looked at them, until that is published."""


class Looking:
    """The part of a hub's sessions that reads them."""

    _context: Context
    _mutex: threading.Lock
    _touched: dict[str, float]

    def get(self, session_id: str, *, touch: bool = True) -> Session | None:
        """The session, or ``None``. With ``touch`` it counts as used, which goes along with the worker's next tick."""
        session = self._find(session_id)
        if session is not None and touch:
            self._touch(session_id)
        return session

    def _find(self, session_id: str) -> Session | None:
        try:
            return SESSION_TABLE.find(self._context.snapshot(FLEET), session_id)
        except InvalidName:
            return None

    def _need(self, session_id: str) -> Session:
        session = self._find(session_id)
        if session is None:
            raise records.no_such(session_id)
        return session

    def _touch(self, session_id: str) -> None:
        with self._mutex:
            if len(self._touched) < MAX_TOUCHED:
                self._touched[session_id] = self._context.now()

    def touched(self) -> dict[str, float]:
        """When callers in this process last looked at sessions, in seconds since the epoch; forgets it."""
        with self._mutex:
            taken = dict(self._touched)
            self._touched.clear()
            return taken

    def list(
        self,
        worker: str | None = None,
        user: str | None = None,
        workspace: str | None = None,
        state: str | None = None,
    ) -> builtins.list[Session]:
        """The sessions that meet all that is given, oldest first. Raises ``UsageError`` for an unknown state."""
        if state is not None and state not in tuple(SessionState):
            raise UsageError(f"unknown state {str(state)[:40]!r}: one of {', '.join(SessionState)}")
        found = [
            session
            for session in SESSION_TABLE.scan(self._context.snapshot(FLEET))
            if worker in (None, session.worker_id)
            and user in (None, session.user_id)
            and workspace in (None, session.workspace_id)
            and state in (None, session.state)
        ]
        return sorted(found, key=lambda one: (one.created_at, one.id))

    def count(
        self,
        worker: str | None = None,
        user: str | None = None,
        workspace: str | None = None,
        state: str | None = None,
    ) -> int:
        """How many sessions there are, of those that meet what is given."""
        return len(self.list(worker, user, workspace, state))

    def status(self, session_id: str) -> SessionStatus:
        """What is known of a session: its use as its worker last told, and its last calls. Raises ``NotFound``."""
        session = self._need(session_id)
        running = session.active_tasks
        try:
            gate = GATE_TABLE.find(self._context.snapshot(FLEET), gate_key(session_id))
            running = max(running, gate.running if gate is not None else 0)
        except (Corrupt, NewerSchema):
            pass  # doctor says so; the worker's own count is still good
        return SessionStatus(
            id=session.id,
            state=session.state,
            worker_id=session.worker_id,
            memory=session.usage.memory_mb,
            cpu=session.usage.cpu_seconds,
            disk=session.usage.disk_mb,
            last_active=session.last_active,
            active_tasks=running,
            calls=session.calls,
            tasks=session.recent,
        )

    def checkpoints(self, session_id: str) -> builtins.list[Checkpoint]:
        """The checkpoints of a session, oldest first. Raises ``NotFound``."""
        return [*self._need(session_id).checkpoints]

    # -- metadata

    def metadata(self, session_id: str) -> dict[str, Any]:
        """The metadata of a session. Raises ``NotFound``."""
        return dict(self._need(session_id).metadata)

    def merge_metadata(self, session_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Lay ``metadata`` over what the session has, key by key; returns all of it.

        Raises ``NotFound``, ``UsageError``, and ``TooLarge`` when all has more than 64 KiB.
        """
        new = settings.metadata_of(metadata)
        return self._put_metadata(session_id, lambda old: settings.metadata_of({**old, **new}))

    def replace_metadata(self, session_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Give the session these metadata in place of all that it has. Raises as :meth:`merge_metadata` does."""
        new = settings.metadata_of(metadata)
        return self._put_metadata(session_id, lambda old: new)

    def _put_metadata(self, session_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        def run(tx: Tx) -> dict[str, Any]:
            session = records.need(tx, session_id)
            changed = change(session.metadata)
            if changed != session.metadata:
                after = session.model_copy(update={"metadata": changed})
                records.put(tx, model.touched(after, tx.now, now=tx.now))
                tx.event(FLEET, "session metadata changed", session=session_id, by=self._context.actor)
            return changed

        return self._context.transact((FLEET,), run)
