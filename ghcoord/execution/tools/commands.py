"""The tools that start a command in the sandbox: ``shell``, ``exec`` and ``run.python``.

What they start finds its task's id in ``GHCOORD_TASK_ID``, the number of the
attempt, from 1, in ``GHCOORD_ATTEMPT``, in a session its id in
``GHCOORD_SESSION_ID``, and the traceparent of a traced call in ``TRACEPARENT``.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from ghcoord.errors import UsageError
from ghcoord.execution.files.beneath import Files
from ghcoord.execution.files.paths import workspace_path
from ghcoord.execution.sandbox.base import check_strings
from ghcoord.execution.tools.arguments import Arguments, FilePath, Variables, declare
from ghcoord.execution.tools.executing import CommandResult, Commands, exit_error, python_error, result_of
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import Tool, ToolContext, ToolResult


def _strings(argv: list[str]) -> list[str]:
    try:
        check_strings(["-", *argv], {})
    except UsageError as mistake:
        raise ValueError(mistake.message) from None
    return argv


def _command(command: str) -> str:
    if not command.strip():
        raise ValueError("shell needs the argument command")
    _strings([command])
    return command


def _program(argv: list[str]) -> list[str]:
    if not argv or not argv[0]:
        raise ValueError("argv must name a program")
    return _strings(argv)


class _Shell(Arguments):
    command: Annotated[str, AfterValidator(_command)]
    stdin: str | None = None
    env: Variables = Field(default_factory=dict)


class _Exec(Arguments):
    argv: Annotated[list[str], AfterValidator(_program)]
    stdin: str | None = None
    env: Variables = Field(default_factory=dict)


class _Python(Arguments):
    code: str | None = None
    file: FilePath | None = None
    args: Annotated[list[str], AfterValidator(_strings)] = Field(default_factory=list)
    stdin: str | None = None
    env: Variables = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.code is None) == (self.file is None):
            raise ValueError("run.python needs the argument code or file, one of them")
        return self


def tools(kit: Kit) -> list[Tool]:
    """None without a sandbox; no ``run.python`` without a Python that the sandbox can reach."""
    if kit.sandbox is None:
        return []
    commands = Commands(kit, kit.sandbox)
    found = [
        declare(
            "shell",
            "Run a command with /bin/sh.",
            _Shell,
            partial(_shell, commands),
            returns=CommandResult,
            sandboxed=True,
        ),
        declare(
            "exec",
            "Run a program with arguments, without a shell.",
            _Exec,
            partial(_exec, commands),
            returns=CommandResult,
            sandboxed=True,
        ),
    ]
    if kit.sandbox.python is not None:
        found.append(
            declare(
                "run.python",
                "Run Python code or a file of the workspace.",
                _Python,
                partial(_run_python, commands),
                returns=CommandResult,
                sandboxed=True,
            )
        )
    return found


def _shell(commands: Commands, args: _Shell, ctx: ToolContext) -> ToolResult:
    done = commands.run(ctx, ["/bin/sh", "-c", args.command], env=args.env, stdin=args.stdin)
    return result_of(done, ctx, exit_error)


def _exec(commands: Commands, args: _Exec, ctx: ToolContext) -> ToolResult:
    # A program given by its name is looked up inside, with the PATH that the command has there.
    # A program that cannot be run is the call's failure (126, 127), not the sandbox's: so another one starts it.
    starter = ["/usr/bin/env", "--"] if "=" not in args.argv[0] else ["/bin/sh", "-c", 'exec "$0" "$@"']
    argv = [*starter, *args.argv]
    return result_of(commands.run(ctx, argv, env=args.env, stdin=args.stdin), ctx, exit_error)


def _run_python(commands: Commands, args: _Python, ctx: ToolContext) -> ToolResult:
    if args.file is not None:
        return _python(commands, args, ctx, workspace_path(args.file))
    code = (args.code or "").encode()
    with Files(ctx.workspace, commands.sandbox.identity) as files, files.private(code, ".py") as name:
        return _python(commands, args, ctx, name)


def _python(commands: Commands, args: _Python, ctx: ToolContext, name: str) -> ToolResult:
    argv = [commands.needed_python(ctx), "-u", f"{commands.sandbox.inside(ctx.workspace)}/{name}", *args.args]
    return result_of(commands.run(ctx, argv, env=args.env, stdin=args.stdin), ctx, python_error)
