"""What a worker does with its sessions before it leaves: save them, and let others have them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ghcoord.errors import GhcoordError
from ghcoord.execution.session.entry import Entry
from ghcoord.execution.session.folder import SessionFolder
from ghcoord.model.session import Checkpoint, SessionState

if TYPE_CHECKING:
    from ghcoord.execution.session.pool import SessionPool

PARK_AT_MOST = 60.0
"""Seconds that saving all sessions may take; what is not saved by then stays with this worker."""


class Parking:
    """Saves the open sessions of ``pool`` and parks those that the hub can restore."""

    def __init__(self, pool: SessionPool, at_most: float | None = None) -> None:
        self._pool = pool
        self._at_most = PARK_AT_MOST if at_most is None else at_most
        self._lock = threading.Lock()
        self._saved: dict[str, int] = {}
        self._over = False

    def run(self, entries: list[Entry], unopened: Mapping[str, int]) -> set[str]:
        """Save and park ``entries``, and park what has no files here; the sessions of ``entries`` that were parked."""
        pool = self._pool
        done = pool.hub.runtime.event()

        def work() -> None:
            try:
                for entry in entries:
                    self._save(entry)
            finally:
                done.set()

        if entries:
            pool.hub.runtime.spawn(work, "ghcoord-parking")
            if not done.wait(self._at_most):
                pool.log(
                    "warn", f"not all sessions could be saved in {self._at_most:g} s: the others stay with this worker"
                )
        with self._lock:
            self._over = True
            saved = dict(self._saved)
        wanted = {**saved, **unopened}
        try:
            left = pool.hub.sessions.park(pool.worker_id, wanted) if wanted else {}
        except GhcoordError as error:
            pool.log("warn", f"sessions could not be parked, they stay with this worker: {error.message}")
            return set()
        return {one for one, state in left.items() if one in saved and state is SessionState.PARKED}

    def _save(self, entry: Entry) -> None:
        """Save one session unless its latest checkpoint has everything; note it when the hub can restore it."""
        pool, folder = self._pool, entry.folder
        with self._lock:
            if self._over or folder is None:
                return
        try:
            if not entry.saved:
                checkpoint = pool.save(folder)
                published = checkpoint.published
            else:
                published = self._published(folder, entry.saved)
        except Exception as error:
            known = isinstance(error, GhcoordError)
            why = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            pool.log("warn", f"session {entry.id} could not be saved, it stays with this worker: {why}")
            return
        if not published:
            pool.log("info", f"session {entry.id}: its checkpoints are kept here only, it stays with this worker")
            return
        with self._lock:
            if not self._over:
                self._saved[entry.id] = folder.epoch

    def _published(self, folder: SessionFolder, checkpoint_id: str) -> bool:
        session = self._pool.hub.sessions.get(folder.session.id)
        found: tuple[Checkpoint, ...] = () if session is None else session.checkpoints
        return any(one.id == checkpoint_id and one.published for one in found)
