"""Calls in a session, and a command as the most usual one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Never, Self

import typer

from ghcoord.errors import GhcoordError, NotFound, SessionLost, TaskFailed, UsageError, WaitTimeout
from ghcoord.faces.cli.common import duration, parse_pairs
from ghcoord.faces.cli.context import invocation, open_hub, surrounding_trace
from ghcoord.faces.cli.output import clean_text, emit, note
from ghcoord.faces.cli.taskwait import SOON
from ghcoord.faces.cli.transfers import stdin_bytes
from ghcoord.faces.views import result_view

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.session import Session
    from ghcoord.model.task import Task, TaskResult

Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]

CallTimeout = Annotated[
    float | None, duration("--timeout", help="The call is ended after this time; exits 8.", show_default=False)
]

LOOK_EVERY = 5.0
"""Seconds between looks at whether the worker that is waited for is alive; the first comes after ``SOON``."""

CANCELLED_WITHIN = 10.0
"""Seconds for which an interrupted call is given time to end: its worker sees that with its next tick."""

MAX_STDIN = 600_000
"""Bytes of standard input that go along with a call: its record takes 1 MB."""


def need_session(hub: Hub, session_id: str) -> Session:
    """The session; raises ``NotFound``."""
    session = hub.sessions.get(session_id)
    if session is None:
        raise no_session(session_id)
    return session


def no_session(session_id: str) -> NotFound:
    """The error for a session that is not there."""
    return NotFound(f"there is no session {session_id[:128]!r}: see 'ghcoord session list'")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the call ``task``. ``result`` is what it gave until then, where that is known."""

    def __init__(self, task: Task, result: TaskResult | None) -> None:
        super().__init__()
        self.task = task
        self.result = result


def run_call(
    hub: Hub,
    session_id: str,
    tool: str,
    args: Mapping[str, Any],
    *,
    timeout: float | None = None,
    key: str | None = None,
    started: Callable[[Task], None] = lambda task: None,
) -> tuple[Task, TaskResult]:
    """Call ``tool`` in the session and wait for it; SIGINT and SIGTERM cancel it and raise ``Interrupted``.

    Raises ``NotFound``, ``SessionLost``, ``NoCapacity``, and ``TaskFailed`` where the call ended without any result.
    """
    with _Interrupts() as interrupts:
        trace = surrounding_trace() or ""
        task = hub.sessions.submit_call(session_id, tool, args, timeout=timeout, key=key, trace=trace)
        try:
            interrupts.let_through()
            started(task)
            ended = _ended(hub, session_id, task.id)
        except KeyboardInterrupt:
            raise Interrupted(task, _cancel(hub, task.id)) from None
    return ended, ended.result if ended.result is not None else _without_result(hub, session_id, ended)


def fields_of(hub: Hub, session_id: str, tool: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a call returned; raises ``TaskFailed`` with the tool's own words, and as :func:`run_call`."""
    _, result = run_call(hub, session_id, tool, args)
    if not result.success:
        raise TaskFailed(result.error)
    return result.data


def _ended(hub: Hub, session_id: str, task_id: str) -> Task:
    """The call once it has ended. Its own timeout bounds how long it runs, nothing how long it waits for a slot."""
    pause, silent = SOON, ""
    while True:
        try:
            return hub.tasks.wait_many([task_id], pause)[task_id]
        except WaitTimeout:
            silent = _look_after(hub, session_id, silent)
            pause = LOOK_EVERY


def _look_after(hub: Hub, session_id: str, said: str) -> str:
    """Say what a call waits for if its worker is not there, and leave a dead one; returns what was said last."""
    session = hub.sessions.get(session_id)
    if session is None:
        return said
    worker, what = session.worker_id, said
    if worker is None:
        what = "no worker has the session: it waits for one with room ('ghcoord worker start' makes one)"
    elif worker in hub.workers.stale():
        what = f"the worker {worker} is silent: the session goes on elsewhere from its last checkpoint, if it can"
        with suppress(GhcoordError):
            hub.workers.recover(worker)
    if what != said:
        note(what)
    return what


class _Interrupts:
    """SIGINT, and SIGTERM which ends jobs of CI, as ``KeyboardInterrupt``; the first one waits for ``let_through``.

    So a call that was queued is always known, and can be cancelled.  Does nothing outside of the main thread.
    """

    def __init__(self) -> None:
        self._held = True
        self._seen = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        with suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        self._seen += 1
        if not self._held or self._seen > 1:
            raise KeyboardInterrupt

    def let_through(self) -> None:
        """From now on they interrupt; raises ``KeyboardInterrupt`` for one that came before."""
        self._held = False
        if self._seen:
            raise KeyboardInterrupt


def _cancel(hub: Hub, task_id: str) -> TaskResult | None:
    """End a call; what it gave until then, if it ends soon. A second Ctrl-C does not wait for that."""
    with suppress(GhcoordError, KeyboardInterrupt):
        hub.tasks.cancel(task_id, reason="interrupted")
        return hub.tasks.wait_many([task_id], CANCELLED_WITHIN)[task_id].result
    return None


def _without_result(hub: Hub, session_id: str, ended: Task) -> Never:
    """Raise what became of a call that has none."""
    session = hub.sessions.get(session_id)
    if session is None:
        raise NotFound(f"the session {session_id[:128]!r} was destroyed before the call had ended")
    if session.state == "lost":
        how = "restore it from a checkpoint" if session.checkpoints else "create another"
        raise SessionLost(f"the session {session_id} was lost: {session.lost_because}; {how}", session_id)
    raise TaskFailed(f"the call {ended.id} is {ended.state}: {ended.cancel_reason or 'it did not run'}")


def exec_(
    session_id: Id,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The program and its arguments.")],
    env: Annotated[list[str] | None, typer.Option("--env", metavar="K=V", help="A variable for it.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass on standard input, up to 600 KB.")] = False,
    timeout: CallTimeout = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print the output as the worker publishes it.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="K", help="Run it once: a repeated call of K returns the first result."),
    ] = None,
) -> None:
    """Run a command in a session and exit with its exit code.

    Its output and its errors come apart when it has ended; with --follow
    together while it runs. A program that is not there exits 127. Exits 8 when
    a limit or its timeout ended it, 7 when the session is lost or no worker
    has room for it. Ctrl-C and SIGTERM end the command too.

    Example:
      ghcoord session exec s42 -- python -m pytest -q
      ghcoord session exec s42 --timeout 5m --follow -- make
      echo 'to be or not' | ghcoord session exec s42 --stdin wc -w
    """
    args: dict[str, Any] = {"argv": [_text(word) for word in command]}
    if env:
        args["env"] = {name: str(value) for name, value in parse_pairs(env, "--env").items()}
    if stdin:
        args["stdin"] = read_stdin()
    with open_hub() as hub:
        follower = _Printer(hub) if follow and not invocation().json else None
        task, result = run_call(
            hub,
            session_id,
            "exec",
            args,
            timeout=timeout,
            key=key,
            started=follower.print_all if follower else lambda task: None,
        )
    if invocation().json:
        emit({"id": session_id, "task": task.id, **result_view(result)})
    else:
        if follower is None:
            print_streams(result)
        print_error(task, result)
    raise typer.Exit(exit_code_of(result))


def _text(word: str) -> str:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{word[:40]!r} is not UTF-8 text: bring other bytes along with 'session put'") from None
    return word


class _Printer:
    """Prints a call's output while it runs."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def print_all(self, task: Task) -> None:
        for piece in self._hub.tasks.logs(task.id, follow=True):
            print(clean_text(piece), end="", flush=True)


def exit_code_of(result: TaskResult) -> int:
    """The command's exit code; 8 where it had none, or failed for another reason."""
    if result.exit_code is not None and (result.success or result.exit_code):
        return result.exit_code
    return 0 if result.success else 8


def print_streams(result: TaskResult) -> None:
    """Standard output and standard error, each where it belongs."""
    out, err = (str(result.data.get(name, "")) for name in ("stdout", "stderr"))
    if "stdout" not in result.data:
        out = result.output
    for text, stream in ((out, sys.stdout), (err, sys.stderr)):
        if text:
            print(clean_text(text), end="" if text.endswith("\n") else "\n", file=stream, flush=True)


def print_error(task: Task, result: TaskResult) -> None:
    """Why a call failed, unless its own output or exit code says so; and where to find output that was cut."""
    if result.truncated:
        note(f"the output was cut: 'ghcoord task logs {task.id}' has more")
    told = result.exit_code and result.error.startswith("exit code ")
    if result.error and not told and result.error not in str(result.data.get("stderr", "")):
        note(f"error: {result.error}")


def read_stdin() -> str:
    """Standard input as text. Raises ``UsageError`` for more than a call takes, and for what is no text."""
    data = stdin_bytes().read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        raise UsageError("standard input has over 600 KB: 'ghcoord session put' brings larger files")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError("standard input is not UTF-8 text: 'ghcoord session put' brings any file") from None
