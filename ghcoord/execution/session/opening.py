"""How a session's files come to be on a worker: they are there still, are restored, or the session is new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ghcoord.errors import Corrupt, GhcoordError, NotFound, SandboxError, SessionLost, TooLarge, UsageError
from ghcoord.execution.environment.make import make_environment
from ghcoord.execution.session.folder import SessionFolder, SessionsHome
from ghcoord.execution.summary import Log
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.workspace import remove_tree
from ghcoord.model.session import Checkpoint, Session, SessionState

if TYPE_CHECKING:
    from ghcoord.execution.checkpoints.checkpoints import Checkpoints


@dataclass(frozen=True, slots=True)
class Opened:
    """A folder with the session's files. ``restored_from`` is the checkpoint that they came from just now."""

    folder: SessionFolder
    restored_from: str | None = None


class Opening:
    """Opens sessions of the worker that holds ``home``."""

    def __init__(self, home: SessionsHome, kit: Kit, checkpoints: Checkpoints, log: Log) -> None:
        self._home = home
        self._kit = kit
        self._checkpoints = checkpoints
        self._log = log

    def open(self, session: Session) -> Opened:
        """The session's files: as they are here, from a checkpoint, or a new workspace.

        Raises ``SessionLost`` when they are nowhere, and ``SandboxError`` or
        ``OSError`` for a fault of this machine or of the way to the hub, after
        which it may be tried again, here or elsewhere.
        """
        folder = self._folder(session)
        marker = self._home.found_one(session.id)
        if marker is not None and marker.epoch == session.epoch:
            self._log("debug", f"session {session.id}: its files are here")
            return Opened(folder)
        self._clear(session.id)
        first = [] if session.restore_from is None else [session.restore_from]
        if first and session.state is not SessionState.ACTIVE:
            return self._restore(session, folder, first)
        if not first and session.state is SessionState.NEW:
            folder.make()
            self._make_environment(folder)
            folder.mark()
            return Opened(folder)
        # It was here, and its folder is gone: the latest state that can still be had is better than none.
        others = [one.id for one in self._reachable(session) if one.id not in first]
        return self._restore(session, folder, first + others)

    def _folder(self, session: Session) -> SessionFolder:
        sandbox = self._kit.sandbox
        identity = None if sandbox is None else sandbox.identity
        return SessionFolder(session, self._home.root(session.id), identity, session.limits.under(self._kit.limits))

    def _make_environment(self, folder: SessionFolder) -> None:
        sandbox = self._kit.sandbox
        if sandbox is not None and sandbox.python is not None:
            make_environment(folder.workspace, sandbox, self._kit.runtime)

    def _reachable(self, session: Session) -> Iterator[Checkpoint]:
        """Checkpoints that this worker may find, newest first."""
        for one in reversed(session.checkpoints):
            if one.published or one.worker == self._home.worker_id:
                yield one

    def _restore(self, session: Session, folder: SessionFolder, candidates: list[str]) -> Opened:
        why = "its worker has not kept them, and there is no checkpoint"
        for checkpoint_id in candidates:
            folder.make()
            try:
                restored = self._checkpoints.restore(session, checkpoint_id, folder, self._kit)
            except (NotFound, Corrupt, TooLarge, UsageError) as error:
                why = f"checkpoint {checkpoint_id} cannot be restored: {error.message}"
                self._log("warn", f"session {session.id}: {why}")
                self._clear(session.id)
            except GhcoordError as error:
                self._clear(session.id)
                if isinstance(error, SandboxError):
                    raise
                raise SandboxError(f"the session {session.id} could not be restored now: {error.message}") from error
            else:
                folder.mark()
                self._log("info", f"session {session.id}: restored from checkpoint {checkpoint_id}")
                if restored.note:
                    self._log("warn", f"session {session.id}: {restored.note}")
                return Opened(folder, restored_from=checkpoint_id)
        raise SessionLost(f"the files of session {session.id!r} are gone: {why}", session.id)

    def _clear(self, session_id: str) -> None:
        """Remove what is there of it: another placement's files, or an opening that was not finished."""
        gone = self._home.set_aside(session_id)
        if gone is not None:
            remove_tree(gone)
