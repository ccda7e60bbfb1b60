"""``python.prompt``: a Python interpreter that stays, with its variables, as long as its session is used.

It ends when the session's workspace goes, after :data:`IDLE` seconds without a
call, and with the worker.  The limits of the session apply to it as to one
command.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ghcoord.errors import UsageError
from ghcoord.execution import process
from ghcoord.execution.process import Completed
from ghcoord.execution.tools.arguments import Arguments, Returns, declare
from ghcoord.execution.tools.executing import Commands, cap_of, python_error, timeout_of
from ghcoord.execution.tools.interpreter import Answer, Interpreter
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import Tool, ToolContext, ToolResult
from ghcoord.units import format_duration

IDLE = 1800.0
"""Seconds without a call after which an interpreter ends, like a session that is not used."""


class _Prompt(Arguments):
    code: str


class _Prompted(Returns):
    stdout: str
    stderr: str
    value: str | None


def tools(kit: Kit) -> list[Tool]:
    """``python.prompt``, for a worker with a sandbox that has a Python."""
    if kit.sandbox is None or kit.sandbox.python is None:
        return []
    prompts = Prompts(Commands(kit, kit.sandbox))
    kit.ends.append(prompts.close)
    return [
        declare(
            "python.prompt",
            "Run Python code in an interpreter that keeps its variables between calls.",
            _Prompt,
            partial(_prompt, prompts),
            returns=_Prompted,
            sandboxed=True,
            needs_session=True,
        )
    ]


class Prompts:
    """The interpreters of one worker, by workspace."""

    def __init__(self, commands: Commands, idle: float = IDLE) -> None:
        self._commands = commands
        self._idle = idle
        self._by_workspace: dict[str, _Place] = {}
        self._lock = threading.Lock()

    def run(self, code: str, ctx: ToolContext) -> Answer:
        """Run ``code`` in the session's interpreter. Raises :class:`UsageError` while another call is in it."""
        place = self._place(str(ctx.workspace))
        if not place.lock.acquire(blocking=False):
            raise UsageError("the session's interpreter is busy with another call: wait for it, or cancel it")
        try:
            if place.interpreter is None or not place.interpreter.alive:
                if place.interpreter is not None:
                    place.interpreter.close()
                place.interpreter = self._start(ctx)
            return place.interpreter.run(
                code,
                cap=cap_of(self._commands.kit, ctx.limits),
                timeout=timeout_of(ctx),
                grace=self._commands.kit.grace,
                cancelled=ctx.cancelled,
                log=ctx.log,
            )
        finally:
            place.lock.release()

    def close(self) -> None:
        """End all interpreters."""
        with self._lock:
            places = list(self._by_workspace.values())
            self._by_workspace.clear()
        for place in places:
            if place.interpreter is not None:
                place.interpreter.close()

    def _place(self, workspace: str) -> _Place:
        with self._lock:
            for name, place in list(self._by_workspace.items()):
                if name != workspace and not place.lock.locked() and not place.alive:
                    del self._by_workspace[name]
                    if place.interpreter is not None:
                        place.interpreter.close()
            return self._by_workspace.setdefault(workspace, _Place())

    def _start(self, ctx: ToolContext) -> Interpreter:
        commands, workspace = self._commands, ctx.workspace
        argv = [commands.needed_python(ctx)]
        env = {name: value for name, value in commands.variables(ctx).items() if not _of_one_call(name)}
        limits = ctx.limits.under(commands.kit.limits).model_copy(update={"timeout": None})
        there = _identity_of(workspace)

        def start(tail: list[str], stdin_fd: int, cancelled: Callable[[], bool]) -> Completed:
            return process.run(
                commands.sandbox,
                [*argv, *tail],
                workspace=workspace,
                runtime=commands.runtime,
                env=env,
                stdin_fd=stdin_fd,
                grace=commands.kit.grace,
                limits=limits,
                cancelled=cancelled,
            )

        return Interpreter(commands.runtime, start, lambda idle: idle > self._idle or _identity_of(workspace) != there)


def _of_one_call(name: str) -> bool:
    """Whether this variable tells of the call that starts the interpreter, which outlives it."""
    return name == "TRACEPARENT" or name.startswith("GHCOORD_")


class _Place:
    """Where a session's interpreter is, when it has one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.interpreter: Interpreter | None = None

    @property
    def alive(self) -> bool:
        return self.interpreter is not None and self.interpreter.alive


def _identity_of(workspace: Path) -> tuple[int, int] | None:
    """What tells a folder from another one that takes its name; ``None`` when there is none."""
    try:
        info = os.lstat(workspace)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _prompt(prompts: Prompts, args: _Prompt, ctx: ToolContext) -> ToolResult:
    if ctx.session_id is None:
        raise UsageError("python.prompt works in a session only: create one and pass its id")
    answer = prompts.run(args.code, ctx)
    return ToolResult(
        success=answer.success and not answer.stopped,
        output=answer.stdout + (f"{answer.value}\n" if answer.value is not None else ""),
        error=_error(answer, ctx),
        data={"stdout": answer.stdout, "stderr": answer.stderr, "value": answer.value},
        truncated=answer.truncated,
    )


def _error(answer: Answer, ctx: ToolContext) -> str:
    timeout = timeout_of(ctx)
    stopped = answer.stopped
    if stopped == "timeout" and timeout is not None:
        stopped = f"timed out after {format_duration(timeout)}"
    gone = ""
    if answer.ended and not (answer.success and not stopped):
        gone = f"the interpreter has ended ({answer.ended}): its variables are gone"
    if stopped or gone:
        return "; ".join(part for part in (stopped, gone) if part)
    return "" if answer.success else python_error(1, answer.stderr)
