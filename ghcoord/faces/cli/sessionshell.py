"""A Python prompt in a session, and programs piped into it."""

from __future__ import annotations

import codeop
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from ghcoord.errors import GhcoordError, NotFound, SessionLost
from ghcoord.faces.cli.context import open_hub
from ghcoord.faces.cli.output import clean_text, note
from ghcoord.faces.cli.sessionrun import (
    CallTimeout,
    Id,
    Interrupted,
    need_session,
    print_error,
    print_streams,
    read_stdin,
    run_call,
)

if TYPE_CHECKING:
    from ghcoord.hub import Hub
    from ghcoord.model.task import Task, TaskResult

TOOL = "python.prompt"

LEAVING = ("exit", "quit", "exit()", "quit()")
"""What people type who want to leave: it ends the prompt, not the interpreter in the session."""


def shell(
    session_id: Id,
    timeout: CallTimeout = None,
) -> None:
    """Open a Python prompt in a session.

    The interpreter runs in the session's sandbox and keeps its variables, also
    from one prompt to the next. Ctrl-C stops what runs, Ctrl-D leaves. Without
    a terminal it runs the program on standard input and exits 8 if that fails.

    Example:
      ghcoord session shell s42
      echo 'import sys; print(sys.version)' | ghcoord session shell s42
    """
    with open_hub() as hub:
        need_session(hub, session_id)
        if not sys.stdin.isatty():
            code = read_stdin()
            if code.strip() and not _show(*run_call(hub, session_id, TOOL, {"code": code}, timeout=timeout)):
                raise typer.Exit(8)
            return
        with suppress(ImportError):
            import readline  # noqa: F401 - line editing for input()
        note(f"Python in session {session_id}: Ctrl-C stops what runs, Ctrl-D leaves")
        while True:
            try:
                statement = _statement()
                if statement is None:
                    return
                _evaluate(hub, session_id, statement, timeout)
            except KeyboardInterrupt:
                print("\nKeyboardInterrupt", file=sys.stderr)


def _statement() -> str | None:
    """One complete statement, as Python's own prompt takes it; ``None`` when there is no more."""
    lines: list[str] = []
    while True:
        try:
            line = input("... " if lines else ">>> ")
        except EOFError:
            print(file=sys.stderr)
            return None
        if not lines and line.strip() in LEAVING:
            return None
        lines.append(line)
        source = "\n".join(lines)
        try:
            complete = codeop.compile_command(source) is not None
        except (SyntaxError, ValueError, OverflowError):
            complete = True  # for the session's Python to say what is wrong
        if complete and source.strip():
            return source + "\n"
        if complete:
            lines = []


def _evaluate(hub: Hub, session_id: str, code: str, timeout: float | None) -> None:
    """Run one statement and show what it gave. Raises when the session itself is no more."""
    try:
        _show(*run_call(hub, session_id, TOOL, {"code": code}, timeout=timeout))
    except Interrupted as stopped:
        if stopped.result is None:
            print("KeyboardInterrupt", file=sys.stderr)
        else:
            _show(stopped.task, stopped.result)
    except (NotFound, SessionLost):
        raise
    except GhcoordError as error:
        note(f"error: {error.message}")


def _show(task: Task, result: TaskResult) -> bool:
    """Print what a block gave; whether it went well."""
    print_streams(result)
    value = result.data.get("value")
    if value is not None:
        print(clean_text(str(value)), flush=True)
    print_error(task, result)
    return result.success
