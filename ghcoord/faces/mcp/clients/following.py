"""One call on a worker of the hub: queued once, followed while it runs, cancelled, and never failed unseen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ghcoord.errors import (
    GhcoordError,
    IllegalTransition,
    NoCapacity,
    NotFound,
    OutcomeUnknown,
    Throttled,
    Unavailable,
    WaitTimeout,
)
from ghcoord.faces.mcp.clients.base import Progressed, Said
from ghcoord.hub import Hub
from ghcoord.ids import new_op_id
from ghcoord.model.task import Progress, Task

START_WAIT = 45.0
"""Seconds that a call waits for a worker to take it; then it is withdrawn. Clients give up after 60."""

SUBMIT_FOR = 20.0
"""Seconds for which it is tried to queue a call while the hub does not answer."""

UNHEARD_FOR = 60.0
"""Seconds for which the hub may be out of reach while a call runs, and for which a call may run past its timeout."""

MOST_REFUSALS = 3
"""How often workers may give a call back since they could not run it, before it is withdrawn."""

CANCEL_WAIT = 10.0
"""Seconds for which the end of a cancelled call is waited for: its worker sees that with its next tick."""

SHORT = 2.0
"""Seconds in which most calls end: in these it looks five times as often."""

LOOK_EVERY = 0.25
"""Seconds between two looks after that."""

WORKER_EVERY = 1.0
"""Seconds between two looks at whether the worker is there."""

_AWAY = (Unavailable, Throttled, OutcomeUnknown)


class Following:
    """A call of ``tool`` in a session. :meth:`run` makes it, in the calling thread.

    ``cancelled`` is asked all the time; ``timeout`` in seconds is what the
    worker gives it once it runs, ``start_wait`` how long it may wait for that.
    """

    def __init__(
        self,
        hub: Hub,
        session_id: str,
        tool: str,
        args: Mapping[str, Any],
        *,
        timeout: float | None,
        trace: str,
        log: Said | None,
        progress: Progressed | None,
        cancelled: Callable[[], bool],
        start_wait: float = START_WAIT,
    ) -> None:
        self._hub = hub
        self._session_id = session_id
        self._tool = tool
        self._args = dict(args)
        self._timeout = timeout
        self._trace = trace
        self._log = log
        self._progress = progress
        self._cancelled = cancelled
        self._start_wait = start_wait
        self._seen = 0
        self._attempt = 0
        self._told: Progress | None = None
        self._note = ""

    def run(self) -> Task:
        """The call's task once it has ended, or was cancelled.

        Raises as ``hub.sessions.submit_call`` does; ``NoCapacity`` when no
        worker took the call, which is withdrawn then and has not run;
        ``OutcomeUnknown`` when it is not known whether it was queued, or what
        became of it, and ``WaitTimeout`` when it may run still, naming its task.
        """
        return self._follow(self._submit())

    def _now(self) -> float:
        return self._hub.runtime.monotonic()

    # -- to the queue

    def _submit(self) -> Task:
        """Queue it under a key of its own: whatever answers are lost, it is there once."""
        key = new_op_id(self._hub.runtime.randbits)
        deadline = self._now() + SUBMIT_FOR
        while True:
            try:
                return self._hub.sessions.submit_call(
                    self._session_id, self._tool, self._args, timeout=self._timeout, key=key, trace=self._trace
                )
            except _AWAY as error:
                if self._now() >= deadline:
                    raise
                self._say(f"the hub does not answer: {error.message}")
            self._hub.runtime.sleep(LOOK_EVERY)

    # -- until its end

    def _follow(self, task: Task) -> Task:
        began = heard = moved = self._now()
        looked = began - WORKER_EVERY / 2
        waits = task.lease is None
        while not task.ended:
            if self._cancelled():
                return self._cancel(task, "its caller gave it up")
            self._hub.runtime.sleep(LOOK_EVERY / 5 if self._now() - began < SHORT else LOOK_EVERY)
            now = self._now()
            try:
                task = self._look(task.id)
                heard = now
            except _AWAY as error:
                if now - heard > UNHEARD_FOR:
                    raise OutcomeUnknown(f"{error.message}; the call {task.id} may run on") from error
                continue
            self._tell(task)
            if waits is not (task.lease is None):
                waits, moved = not waits, now
            if not task.ended and now - looked >= WORKER_EVERY:
                looked = now
                self._look_after()
            if waits and not task.ended and (now - moved > self._start_wait or len(_refusals(task)) >= MOST_REFUSALS):
                return self._withdraw(task)
            if not task.ended and self._is_late(now - moved, now - began):
                self._cancel(task, "it did not end in time")
                raise WaitTimeout(
                    f"the call {task.id} has not ended {UNHEARD_FOR:g} s after its timeout: its worker "
                    f"{task.worker or ''} may be gone, and it may have run"
                )
        return task

    def _is_late(self, moved: float, began: float) -> bool:
        """Whether its worker should have ended it long ago, or several workers in turn have come to nothing."""
        if self._timeout is None:
            return False
        allowed = self._timeout + UNHEARD_FOR
        return moved > allowed or began > 2 * (self._start_wait + allowed)

    def _look(self, task_id: str) -> Task:
        task = self._hub.tasks.get(task_id)
        if task is None:
            raise NotFound(f"the call {task_id} was removed from the hub before its end was seen")
        return task

    def _tell(self, task: Task) -> None:
        """Pass on what its worker has published since the last look."""
        said = task.progress
        if said is None or said == self._told or task.ended:
            return
        self._told = said
        if self._attempt != task.attempt:
            self._attempt, self._seen = task.attempt, 0
        new = said.seen - self._seen
        self._seen = max(self._seen, said.seen)
        if new > 0 and self._log is not None:
            missed = new - len(said.tail)
            gap = f"[… {missed} characters …]\n" if missed > 0 else ""
            self._log("stdout", gap + said.tail[-new:])
        if self._progress is not None and (said.message or said.fraction is not None):
            self._progress(said.fraction, said.message)

    def _look_after(self) -> None:
        """Say what it waits for, and leave a worker that is silent for longer than its lease."""
        with suppress(GhcoordError):
            session = self._hub.sessions.get(self._session_id)
            if session is None:
                return
            if session.worker_id is None:
                self._say("no worker has the session: waiting for one with room")
            elif session.worker_id in self._hub.workers.stale():
                self._say(f"the worker {session.worker_id} is gone: the session goes on elsewhere if it can")
                self._hub.workers.recover(session.worker_id)

    def _say(self, note: str) -> None:
        if note != self._note and self._progress is not None:
            self._progress(None, note)
        self._note = note

    # -- ended from here

    def _cancel(self, task: Task, reason: str) -> Task:
        """Have its worker end it; the task as it is then, which may not have ended when that worker does not answer."""
        until = self._now() + CANCEL_WAIT
        asked = False
        while not task.ended and self._now() < until:
            try:
                task = self._look(task.id) if asked else self._hub.tasks.cancel(task.id, reason=reason)
                asked = True
            except IllegalTransition:
                asked = True
            except _AWAY:
                pass
            if not task.ended:
                self._hub.runtime.sleep(LOOK_EVERY / 5)
        return task

    def _withdraw(self, task: Task) -> Task:
        """Take back a call that no worker took. Raises ``NoCapacity``, unless one has taken it after all."""
        why = next(reversed(_refusals(task)), "")
        with suppress(GhcoordError):
            why = why or self._hub.tasks.why_waits(task.id)
        reason = "no worker took it in time"
        ended = self._cancel(task, reason)
        if not ended.ended:
            raise WaitTimeout(f"the call {task.id} was not taken for {self._start_wait:g} s; it may run still")
        if ended.result is not None or ended.attempt != task.attempt or ended.cancel_reason != reason:
            return ended
        raise NoCapacity(
            f"no worker could run the call{f': {why}' if why else f' within {self._start_wait:g} s'}; it was withdrawn"
        )


def _refusals(task: Task) -> list[str]:
    """Why workers gave the call back that could not run it."""
    return [one.error for one in task.history if one.outcome == "given back" and one.error]
