"""Tools called in a session: a task that only the session's worker runs, made once for each key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ghcoord.coord import layout
from ghcoord.coord.context import TASK_TABLE, Context
from ghcoord.coord.layout import FLEET
from ghcoord.coord.queue import records as tasks
from ghcoord.coord.sessions import placing, records
from ghcoord.coord.tasks.submission import Submission, plain
from ghcoord.coord.tasks.submit import Desk, Item
from ghcoord.coord.tasks.wait import Waiting
from ghcoord.coord.workers.recovery import Recovery
from ghcoord.errors import TaskFailed, UsageError
from ghcoord.ids import check_name
from ghcoord.model import session as model
from ghcoord.model import steps
from ghcoord.model.codec import MAX_NUMBER
from ghcoord.model.lease import Judge
from ghcoord.model.session import Checkpoint, Session, SessionState
from ghcoord.model.task import State, Task, TaskResult
from ghcoord.model.tool import check_tool_name
from ghcoord.model.worker import worker_key
from ghcoord.store.tx import Tx


class _Waiter(Waiting):
    """Waits for calls to end."""

    def __init__(self, context: Context) -> None:
        self._context = context


class Calling:
    """The part of a hub's sessions that has their workers run tools."""

    _context: Context

    def submit_call(
        self,
        session_id: str,
        tool: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        key: str | None = None,
        sequence: int | None = None,
        trace: str = "",
    ) -> Task:
        """Queue the call of ``tool`` in a session and return its task, which the session's worker runs, once.

        With a ``key``, or a number in a ``sequence``, the same call again gives
        the task that there is already, however it ended.  ``timeout`` in seconds,
        at most the session's.  ``trace`` is a W3C traceparent to pass on.

        Raises ``NotFound``; ``SessionLost`` when the files are gone;
        ``NoCapacity`` when no worker has the session and none can take it;
        ``UsageError`` for a bad name or arguments, for a key of another call, for
        one whose task was removed, and for a tool that the worker does not have.
        """
        mark = _mark(key, sequence)
        one = Submission(check_tool_name(tool), args or {}, timeout=timeout, session=session_id, trace=trace)
        one.check()
        context = self._context
        judge, quota = context.judge(), context.config().quota_open_tasks
        self._leave_the_dead(session_id, judge)

        def run(tx: Tx) -> Task:
            session = _taken_off_gone(tx, records.need(tx, session_id))
            task_id = None
            if mark is not None:
                task_id = call_id(session, mark)
                known = TASK_TABLE.get(tx, FLEET, task_id)
                if known is not None:
                    return _again(tx, session, known, one, mark)
                if tx.read(FLEET, layout.called_path(session_id, task_id)) is not None:
                    raise UsageError(
                        f"the call with the {_named(mark)} ran in the session {session_id} and its task has been "
                        "removed since: its result is gone, and it is not run a second time"
                    )
            records.usable(tx, session_id)
            _check_runs(tx, session, tool, judge)
            (offered,) = Desk(context.actor, None, quota, {}).take([Item(task_id, one)], tx)
            if task_id is not None:
                tx.write(FLEET, layout.called_path(session_id, task_id), layout.MARKER)
            records.put(tx, model.touched(session, tx.now, now=tx.now))
            return offered.task

        return context.transact((FLEET,), run)

    def _leave_the_dead(self, session_id: str, judge: Judge) -> None:
        """Recover the worker of a session if its lease is over: whoever has room then takes the session."""
        context = self._context
        snapshot = context.snapshot(FLEET)
        session = records.find(snapshot, session_id)
        worker = records.find_worker(snapshot, session.worker_id) if session is not None else None
        if worker is not None and worker.alive and judge(worker_key(worker.id), worker.lease, context.now()):
            try:
                Recovery(context).recover(worker.id, judge)
            except UsageError:
                return  # it has come back

    def call(
        self,
        session_id: str,
        tool: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        key: str | None = None,
        sequence: int | None = None,
        trace: str = "",
        wait: float | None = 300.0,
    ) -> TaskResult:
        """Run ``tool`` in a session and return its result, success or not: a call that fails raises nothing.

        Waits ``wait`` seconds, ``None`` for ever.  Raises as :meth:`submit_call`
        does, ``SessionLost`` also when it happens before the call has ended, and
        ``WaitTimeout``: then the call goes on, and the same one with a key or
        ``sequence`` finds it.
        """
        task = self.submit_call(session_id, tool, args, timeout=timeout, key=key, sequence=sequence, trace=trace)
        ended = task if task.ended else _Waiter(self._context).wait_many([task.id], wait)[task.id]
        if ended.result is not None:
            return ended.result
        session = records.find(self._context.snapshot(FLEET), session_id)
        if session is not None and session.state is SessionState.LOST:
            raise records.gone(session)
        return TaskResult(
            success=False,
            error=f"the call was cancelled: {ended.cancel_reason or 'its worker ended it'}",
            completed_at=ended.ended_at,
        )

    def checkpoint(self, session_id: str, name: str = "", *, wait: float | None = 300.0) -> Checkpoint:
        """Have the session's worker save its files; ``name`` is for people. Raises as :meth:`call` does.

        Raises ``TaskFailed`` as well, saying why it could not.
        """
        result = self.call(session_id, "session.checkpoint", {"name": name} if name else {}, wait=wait)
        return Checkpoint.model_validate(data_of(result, "checkpoint"))


def data_of(result: TaskResult, name: str) -> Any:
    """What a tool returned; raises ``TaskFailed``."""
    if not result.success or name not in result.data:
        raise TaskFailed(result.error or f"the worker returned no {name}")
    return result.data[name]


_CALL_ID = re.compile(r"c[0-9a-f]{32}", re.ASCII)

Mark = tuple[str, str]
"""What tells a repeated call: ``key`` or ``sequence``, and its value."""


def _mark(key: str | None, sequence: int | None) -> Mark | None:
    if key is not None and sequence is not None:
        raise UsageError("a call has a key or a place in a sequence, not both")
    if key is not None:
        if not isinstance(key, str):
            raise UsageError(f"the key {key!r} is not a text")
        return "key", check_name(key, "key")
    if sequence is None:
        return None
    if isinstance(sequence, bool) or not isinstance(sequence, int) or not 0 <= sequence <= MAX_NUMBER:
        raise UsageError(f"the sequence number {sequence!r} is out of range: give 0 to 2⁵³")
    return "sequence", str(sequence)


def _named(mark: Mark) -> str:
    return f"{mark[0]} {mark[1]!r}" if mark[0] == "key" else f"sequence number {mark[1]}"


def call_id(session: Session, mark: Mark) -> str:
    """The id of the task of a marked call: it follows from the session, this one and no later one of its id."""
    text = "\0".join((session.id, str(session.born or session.created_at.timestamp()), *mark))
    return f"c{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def is_marked(task_id: str) -> bool:
    """Whether this is the id of a marked call's task."""
    return _CALL_ID.fullmatch(task_id) is not None


def _again(tx: Tx, session: Session, known: Task, one: Submission, mark: Mark) -> Task:
    """The task of the same call before; one that was never begun and was cancelled with its session is queued again."""
    if known.session != session.id or known.tool != one.tool or known.args != plain(one.args):
        raise UsageError(
            f"the {_named(mark)} of the session {session.id} belongs to another call, of {known.tool}: choose another"
        )
    if known.state is State.CANCELLED and known.result is None and not known.attempt:
        records.usable(tx, session.id)
        (at,) = tasks.next_sequences(tx, 1)
        (queued,) = tasks.put(tx, [(known, steps.retry(known, sequence=at))])
        return queued
    return known


def _taken_off_gone(tx: Tx, session: Session) -> Session:
    """The session, left by a worker that is offline or no longer there."""
    if session.worker_id is None:
        return session
    worker = records.worker_of(tx, session.worker_id)
    if worker is not None and worker.alive and session.id in worker.session_ids:
        return session
    records.take_from(tx, session)
    return records.displace(tx, session, f"its worker {session.worker_id} is gone")


def _check_runs(tx: Tx, session: Session, tool: str, judge: Judge) -> None:
    """Raises ``NoCapacity`` when nobody can have the session, ``UsageError`` when its worker lacks the tool."""
    if session.worker_id is None:
        placing.choose(tx, session, judge)
        return
    worker = records.worker_of(tx, session.worker_id)
    tools = () if worker is None else worker.offer.tools
    if worker is not None and tools and tool not in tools:
        raise UsageError(
            f"the worker {worker.id} of the session {session.id} has no tool {tool!r}: it has {', '.join(tools)[:300]}"
        )
