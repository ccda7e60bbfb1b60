"""Calls in a session: a command, or a Python prompt."""

from __future__ import annotations

import codeop
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghcoord.errors import GhcoordError, NotFound, SessionLost, UsageError, WaitTimeout
from ghcoord.faces.cli.common import duration, parse_pairs
from ghcoord.faces.cli.context import invocation, open_hub
from ghcoord.faces.cli.output import clean_text, emit, note
from ghcoord.faces.cli.taskwait import await_all
from ghcoord.faces.views import result_view

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.task import Task, TaskResult

Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]

CallTimeout = Annotated[
    float | None, duration("--timeout", help="The call is ended after this time; exits 8.", show_default=False)
]

WAIT = 3600.0
"""Seconds that a command waits for its call where nothing limits that: a call's own timeout ends it before."""

MAX_STDIN = 600_000
"""Bytes of standard input that go along with a call: its record takes 1 MB."""


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
    """Call ``tool`` in the session and wait for it; an interrupt cancels it.

    Raises ``NotFound``, ``SessionLost`` and what the call's record says where it ended without any result.
    """
    task = hub.sessions.submit_call(session_id, tool, args, timeout=timeout, key=key)
    try:
        started(task)
        ended = await_all(hub, [task], WAIT if timeout is None else timeout + WAIT)[0]
    except (KeyboardInterrupt, WaitTimeout):
        with suppress(GhcoordError):
            hub.tasks.cancel(task.id, reason="interrupted")
        raise
    if ended.result is None:
        session = hub.sessions.get(session_id)
        if session is None:
            raise NotFound(f"the session {session_id[:140]!r} was destroyed")
        if session.state == "lost":
            raise SessionLost(f"session {session_id} is lost: {session.lost_because}", session_id)
        raise UsageError(f"the call {ended.id} is {ended.state}: {ended.cancel_reason or 'it did not run'}")
    return ended, ended.result


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
    together while it runs. Exits 8 when it was ended, 7 when it could not be
    started or the session is lost.

    Example:
      ghcoord session exec s42 -- python -m pytest -q
      ghcoord session exec s42 --timeout 5m --follow -- make
    """
    args: dict[str, Any] = {"argv": command}
    if env:
        args["env"] = {name: str(value) for name, value in parse_pairs(env, "--env").items()}
    if stdin:
        args["stdin"] = _read_stdin()
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
        if result.truncated:
            note(f"the output was cut: 'ghcoord task logs {task.id}' has the rest")
        if result.error and result.exit_code is None:
            note(f"error: {result.error}")
    raise typer.Exit(exit_code_of(result))


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


def _read_stdin() -> str:
    data = sys.stdin.read(MAX_STDIN + 1)
    if len(data.encode(errors="replace")) > MAX_STDIN:
        raise UsageError("standard input has over 600 KB: 'ghcoord session put' brings a file of any size")
    return data


# -- the prompt


def shell(
    session_id: Id,
    timeout: CallTimeout = None,
) -> None:
    """Open a Python prompt in a session.

    The interpreter runs in the session's sandbox and keeps its state from line
    to line. Ctrl-C stops what runs, Ctrl-D ends the prompt. Without a terminal
    it reads a program from standard input, block by block, and exits 8 at the
    first that fails.

    Example:
      ghcoord session shell s42
      echo 'import sys; print(sys.version)' | ghcoord session shell s42
    """
    interactive = sys.stdin.isatty()
    with open_hub() as hub:
        if hub.sessions.get(session_id) is None:
            raise NotFound(f"there is no session {session_id[:140]!r}")
        if interactive:
            with suppress(ImportError):
                import readline  # noqa: F401 - line editing for input()
            note(f"Python in session {session_id}; Ctrl-D leaves")
        for code in _blocks(interactive):
            if not _evaluate(hub, session_id, code, timeout, interactive) and not interactive:
                raise typer.Exit(8)


def _blocks(interactive: bool) -> Iterator[str]:
    """Complete statements, as Python's own prompt takes them."""
    lines: list[str] = []
    while True:
        try:
            line = input("... " if lines else ">>> ") if interactive else _next_line()
        except EOFError:
            if lines:
                yield "\n".join(lines) + "\n"
            if interactive:
                print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print("\nKeyboardInterrupt", file=sys.stderr)
            lines = []
            continue
        lines.append(line)
        source = "\n".join(lines)
        if not interactive and line[:1] in (" ", "\t", "#", ""):
            continue
        try:
            complete = codeop.compile_command(source) is not None
        except (SyntaxError, ValueError, OverflowError):
            complete = True
        if complete or (interactive and not line):
            if source.strip():
                yield source + "\n"
            lines = []


def _next_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _evaluate(hub: Hub, session_id: str, code: str, timeout: float | None, interactive: bool) -> bool:
    """Run one block; whether it went well."""
    try:
        _, result = run_call(hub, session_id, "python.prompt", {"code": code}, timeout=timeout)
    except KeyboardInterrupt:
        if not interactive:
            raise
        print("KeyboardInterrupt", file=sys.stderr)
        return False
    print_streams(result)
    value = result.data.get("value")
    if value is not None:
        print(clean_text(str(value)), flush=True)
    if not result.success and not result.data.get("stderr"):
        note(f"error: {result.error}")
    return result.success
