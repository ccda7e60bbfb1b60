"""The sessions of one worker: opened when they are first needed, closed when the hub says they are elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ghcoord.errors import GhcoordError
from ghcoord.execution.session.entering import Entering
from ghcoord.execution.session.entry import Entry
from ghcoord.execution.session.parking import Parking
from ghcoord.execution.summary import Log
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.workspace import remove_tree
from ghcoord.hub import Hub
from ghcoord.model.session import Session, SessionReport

if TYPE_CHECKING:
    from ghcoord.execution.checkpoints.checkpoints import Checkpoints

STALE_AFTER = 1800.0
"""Seconds without a call after which a session is destroyed (reference: co:186)."""

WARM = 60.0
"""Seconds after a call in which the next one is looked for more often."""

REMOVE_TRIES = 5
REMOVE_PAUSE = 0.2
"""How often it is tried to remove a session's files, and seconds between."""


class SessionPool(Entering):
    """The sessions that ``worker_id`` has. Safe to share between threads.

    ``base`` is where their folders lie, ``max_sessions`` how many it takes;
    sessions idle for ``stale_after`` seconds are destroyed by the daemon's
    chores.  ``kit`` is what tools are made with.

    The daemon calls :meth:`recover` at its start, :meth:`follow` with what each
    reply of the hub says, and :meth:`drain` before it leaves.  A program in
    this process uses :class:`LocalSessions`.
    """

    def __init__(
        self,
        hub: Hub,
        worker_id: str,
        *,
        base: Path,
        kit: Kit,
        checkpoints: Checkpoints,
        max_sessions: int = 5,
        log: Log,
        stale_after: float = STALE_AFTER,
    ) -> None:
        super().__init__(hub, worker_id, base, kit, checkpoints, log)
        self.max_sessions = max_sessions
        self.stale_after = stale_after
        self._placed: dict[str, int] = {}
        self._waits = False
        """Whether another process has the folder."""

    # -- what the hub says

    @property
    def room(self) -> int:
        """How many more sessions it takes now."""
        if self._draining or not self.home.held:
            return 0
        with self._lock:
            return max(0, self.max_sessions - len({*self._placed, *self._entries}))

    @property
    def busy(self) -> bool:
        """Whether any call runs in a session."""
        with self._lock:
            return any(entry.running for entry in self._entries.values())

    @property
    def lively(self) -> bool:
        """Whether somebody works in a session just now, who waits for the next call's answer."""
        since = self._now() - WARM
        with self._lock:
            return any(entry.last_active >= since for entry in self._entries.values())

    def recover(self, token: int) -> bool:
        """Find what an earlier registration has left: keep what is still ours, remove the rest; whether that was done.

        ``token`` is that of the present registration.  Where another process
        holds the folder nothing is done: try again later.
        """
        if not self.home.hold():
            if not self._waits:
                self.log("warn", f"another process still has {self.home.folder}: sessions wait until it has ended")
            self._waits = True
            return False
        self._waits = False
        epochs = {one: marker.epoch for one, marker in self.home.found().items()}
        back = self.hub.sessions.reattach(self.worker_id, token, epochs) if epochs else {}
        apart = {one: epoch for one, epoch in epochs.items() if back.get(one) != epoch}
        gone = self._over(apart) + self.home.unfinished()
        with self._lock:
            self._placed = {**self._placed, **back}
            self._resting = {one: epoch for one, epoch in back.items() if one not in self._entries}
            aside = [self._set_aside(one) for one in gone if one not in self._entries]
        if back:
            self.log("info", f"{len(back)} sessions go on with the files that are here")
        if gone:
            self.log("info", f"{len(gone)} sessions are elsewhere or over: their files here are removed")
        self._remove_later(aside)
        return True

    def _over(self, epochs: Mapping[str, int]) -> list[str]:
        """The sessions whose files here, under these epochs, are not their latest: this worker may not have them back.

        Asking does not count as using them.
        """
        known = {one.id: one for one in self.hub.sessions.list()} if epochs else {}
        over = []
        for session_id, epoch in epochs.items():
            session = known.get(session_id)
            if session is None:
                returns = not self._is_gone(session_id)
            else:
                mine = session.worker_id or session.last_worker
                returns = session.epoch == epoch and mine == self.worker_id
            if not returns:
                over.append(session_id)
        return over

    def follow(self, placed: Mapping[str, int], revision: int | None = None) -> None:
        """What the hub says this worker has, by epoch: everything else is closed, and its files removed.

        ``revision`` is that of the answer: what was placed here since is not in it.
        """
        aside: list[Path | None] = []
        cancel: list[Callable[[], None]] = []
        idle: list[Entry] = []
        with self._lock:
            self._placed = dict(placed)
            for session_id, epoch in list(self._resting.items()):
                if placed.get(session_id) != epoch:
                    del self._resting[session_id]
                    if session_id not in self._entries:
                        aside.append(self._set_aside(session_id))
            for session_id in [one for one, report in self._lost.items() if placed.get(one) != report.epoch]:
                del self._lost[session_id]
            for entry in self._entries.values():
                epoch_here = self._epoch(entry)
                if epoch_here is None or entry.closing or placed.get(entry.id) == epoch_here:
                    continue
                if placed.get(entry.id, 0) < epoch_here and revision is not None and revision < epoch_here:
                    continue  # an answer from before it was placed here
                entry.closing = "it was destroyed or moved"
                cancel += [running.cancel for running in entry.running.values()]
                if not entry.running:
                    idle.append(entry)
        for stop in cancel:
            stop()
        for entry in idle:
            self._put_away(entry)
        self._remove_later(aside)

    def dropped(self, session_id: str, why: str, *, but: int | None = None) -> None:
        """The session's present files are over: its calls are stopped, and the files removed when these have ended.

        Those of the placement ``but`` stay.
        """
        with self._lock:
            if self._placed.get(session_id) != but:
                self._placed.pop(session_id, None)
            resting = self._resting.pop(session_id, None) is not None
            entry = self._entries.get(session_id)
            if entry is not None and entry.folder is not None and not entry.closing and self._epoch(entry) != but:
                entry.closing = why
                cancel = [running.cancel for running in entry.running.values()]
            else:
                entry, cancel = None, []
            idle = entry is not None and not entry.running
            aside = self._set_aside(session_id) if resting and session_id not in self._entries else None
        for stop in cancel:
            stop()
        if entry is not None and idle:
            self._put_away(entry)
        self._remove_later([aside])

    def _put_away(self, entry: Entry) -> None:
        """Its last call has ended: remove its files."""
        folder = entry.folder
        if folder is not None:
            folder.close()
        self._remove_later([self._set_aside(entry.id)])
        with self._lock:
            if self._entries.get(entry.id) is entry:
                del self._entries[entry.id]
        entry.closed.set()
        self.log("info", f"session {entry.id}: closed, {entry.closing}")

    def _set_aside(self, session_id: str) -> Path | None:
        """Take files out of the way; what :meth:`_remove_later` is to be told."""
        try:
            return self.home.set_aside(session_id)
        except (OSError, GhcoordError) as error:
            self.log("warn", f"the files of session {session_id} could not be removed: {error}")
            return None

    def _remove_later(self, aside: Sequence[Path | None]) -> None:
        """Remove what was set aside, in threads of their own."""
        for gone in aside:
            if gone is not None:
                self._runtime.spawn(partial(self._remove, gone), "ghcoord-remove")

    def _remove(self, gone: Path) -> None:
        """Remove what was set aside; an interpreter that notices only now that its folder is gone may still write."""
        for _ in range(REMOVE_TRIES):
            remove_tree(gone)
            if not os.path.lexists(gone):
                return
            self._runtime.sleep(REMOVE_PAUSE)
        self.log("warn", f"{gone} could not be removed: it is tried again when the worker starts")

    def pause(self, why: str) -> None:
        """Stop all calls and take none of this process: another worker may have the sessions by now.

        ``why`` goes on after the worker's name.  Ends with :meth:`resume`.
        """
        with self._lock:
            self._pauses += not self._paused
            self._paused = why
            cancel = [running.cancel for entry in self._entries.values() for running in entry.running.values()]
        for stop in cancel:
            stop()

    def resume(self) -> None:
        """The worker's lease counts again."""
        with self._lock:
            self._paused = ""

    # -- what the hub is told

    def reports(self) -> list[SessionReport]:
        """What there is to say that the hub has not heard; goes with what is committed anyway."""
        now = self._now()
        with self._lock:
            said = list(self._lost.values())
            for entry in self._entries.values():
                if entry.folder is None or entry.closing:
                    continue
                report = entry.report(entry.folder, now)
                if report != entry.reported:
                    said.append(report)
            return said

    def told(self, reports: Sequence[SessionReport]) -> None:
        """The hub has heard these."""
        with self._lock:
            for report in reports:
                if report.lost:
                    self._lost.pop(report.id, None)
                    continue
                entry = self._entries.get(report.id)
                if entry is not None and self._epoch(entry) == report.epoch:
                    entry.reported_as(report)

    @property
    def news(self) -> bool:
        """Whether the hub should hear something without waiting: of a session that was opened, or is lost."""
        with self._lock:
            opened = any(e.folder is not None and e.reported is None and not e.closing for e in self._entries.values())
            return opened or bool(self._lost)

    # -- the end

    def drain(self) -> None:
        """Checkpoint what changed and park all that a checkpoint of the hub has; see :class:`Parking`.

        What cannot be saved in time stays as it is: this worker takes it back
        when it returns.  Call it when no call runs any more.
        """
        self._open_resting()
        with self._lock:
            self._draining = True
            entries = [entry for entry in self._entries.values() if entry.folder is not None and not entry.closing]
            unopened = {one: at for one, at in self._placed.items() if one not in {*self._entries, *self._resting}}
        parked = Parking(self).run(entries, unopened)
        cancel: list[Callable[[], None]] = []
        with self._lock:
            for entry in entries:
                if entry.id in parked:
                    entry.closing = "it was parked"
                    cancel += [running.cancel for running in entry.running.values()]
            done = [entry for entry in entries if entry.closing and not entry.running]
        for stop in cancel:
            stop()
        for entry in done:
            self._put_away(entry)

    def _open_resting(self) -> None:
        """Open what has files here and was not needed since the start: it may hold what no checkpoint has."""
        with self._lock:
            resting = list(self._resting)
        for session_id in resting:
            try:
                with self.enter(session_id, tool="", task_id=""):
                    pass
            except GhcoordError as error:
                self.log("warn", f"session {session_id} could not be opened to be saved: {error.message}")

    def close(self) -> None:
        """Let go of everything; files that are left stay for the next process of this worker."""
        with self._lock:
            entries, self._entries = list(self._entries.values()), {}
            self._draining = True
        for entry in entries:
            if entry.folder is not None:
                entry.folder.close()
        for end in self.kit.ends:
            end()
        self.home.close()

    # -- chores

    def sweep(self) -> int:
        """Remove what workers that are gone have left in the same folder; the number of sessions removed.

        Checkpoints that are kept here of sessions that are no more go as well.
        """
        known: dict[str, Session] = {}
        asked = False

        def sessions() -> dict[str, Session]:
            nonlocal asked
            if not asked:
                known.update({one.id: one for one in self.hub.sessions.list()})
                asked = True
            return known

        def belongs(worker_id: str, session_id: str, epoch: int) -> bool:
            session = sessions().get(session_id)
            if session is None:
                return not self._is_gone(session_id)
            return session.last_worker == worker_id and session.epoch == epoch

        saved = self.checkpoints.sessions()
        removed = self.home.sweep_others(belongs) + self._sweep_own()
        for session_id in saved:
            if session_id not in sessions() and self._is_gone(session_id):
                self.checkpoints.forget(session_id)
        return removed

    def _is_gone(self, session_id: str) -> bool:
        """Whether there is no such session: one whose record cannot be read is there."""
        try:
            return self.hub.sessions.get(session_id) is None
        except GhcoordError:
            return False

    def _sweep_own(self) -> int:
        """Remove files here that waited for their session, which is elsewhere or over by now."""
        if not self.home.held:
            return 0
        with self._lock:
            here = {*self._placed, *self._entries, *self._resting}
        waiting = {one: marker.epoch for one, marker in self.home.found().items() if one not in here}
        over = self._over(waiting)
        with self._lock:
            here = {*self._placed, *self._entries, *self._resting}
            gone = [self._set_aside(one) for one in over if one not in here]
        self._remove_later(gone)
        return len(gone)
