"""The built-in tools: ``echo``, ``run.python`` and ``shell``.

What the latter two start finds its task's id in ``GHCOORD_TASK_ID`` and the
number of the attempt, from 1, in ``GHCOORD_ATTEMPT``.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ghcoord.clock import Runtime
from ghcoord.errors import PathRefused, SandboxError, UsageError
from ghcoord.execution import process
from ghcoord.execution.sandbox.base import Identity, Sandbox, check_strings, prepare_workspace
from ghcoord.model.tool import Tool, ToolContext, ToolResult
from ghcoord.units import format_duration

CODE_FILE = ".ghcoord-task.py"
"""Where ``run.python`` puts ``code`` while it runs, so that tracebacks show its lines."""

_Check = Callable[[str, Any], None]


def builtin_tools(
    sandbox: Sandbox | None,
    runtime: Runtime,
    *,
    output_cap: int = process.OUTPUT_CAP,
    grace: float = process.GRACE,
) -> list[Tool]:
    """The tools that a worker with this sandbox has.

    Without a sandbox only ``echo``; without a Python that the sandbox can
    reach, no ``run.python``.  ``output_cap`` is in bytes a stream, ``grace`` in
    seconds between SIGTERM and SIGKILL.
    """
    tools = [Tool("echo", "Return the message.", _echo, check=_check_echo)]
    if sandbox is None:
        return tools
    execute = partial(_execute, sandbox, runtime, output_cap, grace)
    if sandbox.python is not None:
        run = partial(_run_python, execute, sandbox, sandbox.python)
        tools.append(Tool("run.python", "Run Python code or a file of the workspace.", run, True, _check_python))
    run = partial(_shell, execute)
    tools.append(Tool("shell", "Run a command with /bin/sh.", run, True, _check_shell))
    return tools


# -- arguments


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a string, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not valid UTF-8") from None


def _texts(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise UsageError(f"{name} must be a list of strings, not {_kind(value)}")
    for each in value:
        _text(f"each of {name}", each)


def _variables(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise UsageError(f"{name} must be an object of strings, not {_kind(value)}")
    check_strings(["-"], value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _check(tool: str, args: dict[str, Any], takes: Mapping[str, _Check]) -> None:
    for name, value in args.items():
        if name not in takes:
            raise UsageError(f"{tool} has no argument {name!r}: it takes {', '.join(takes)}")
        takes[name](name, value)


def _check_echo(args: dict[str, Any]) -> None:
    _check("echo", args, {"message": _text})
    if "message" not in args:
        raise UsageError("echo needs the argument message")


def _check_shell(args: dict[str, Any]) -> None:
    _check("shell", args, {"command": _text, "env": _variables, "stdin": _text})
    if not args.get("command", "").strip():
        raise UsageError("shell needs the argument command")
    check_strings(_shell_argv(args), {})


def _check_python(args: dict[str, Any]) -> None:
    takes: dict[str, _Check] = {"code": _text, "file": _text, "args": _texts, "stdin": _text, "env": _variables}
    _check("run.python", args, takes)
    if ("code" in args) == ("file" in args):
        raise UsageError("run.python needs the argument code or file, one of them")
    if "file" in args:
        workspace_path(args["file"])
    check_strings(["python", *args.get("args", [])], {})


def workspace_path(path: str) -> str:
    """``path`` when it stays in the workspace. Raises :class:`PathRefused`, in the reference's words."""
    pure = PurePosixPath(path)
    if pure.is_absolute():
        raise PathRefused(f"path must be relative to workspace root, got absolute path: {path}")
    if ".." in pure.parts:
        raise PathRefused(f"path traversal not allowed: {path}")
    if not pure.parts or "\0" in path:
        raise PathRefused(f"not the path of a file: {path!r}")
    return str(pure)


# -- tools


def _echo(args: dict[str, Any], ctx: ToolContext) -> ToolResult:
    try:
        _check_echo(args)
    except UsageError as mistake:
        return ToolResult(success=False, error=mistake.message)
    return ToolResult(success=True, output=args["message"], data={"message": args["message"]})


def _shell_argv(args: dict[str, Any]) -> list[str]:
    return ["/bin/sh", "-c", args["command"]]


def _shell(execute: Callable[..., ToolResult], args: dict[str, Any], ctx: ToolContext) -> ToolResult:
    try:
        _check_shell(args)
        return execute(_shell_argv(args), args, ctx, _exit_error)
    except UsageError as mistake:
        return ToolResult(success=False, error=mistake.message)
    except SandboxError as why:
        return ToolResult(success=False, error=why.message, infrastructure=True)


def _run_python(
    execute: Callable[..., ToolResult], sandbox: Sandbox, python: str, args: dict[str, Any], ctx: ToolContext
) -> ToolResult:
    try:
        _check_python(args)
        name = workspace_path(args["file"]) if "file" in args else CODE_FILE
        argv = [python, "-u", f"{sandbox.inside(ctx.workspace)}/{name}", *args.get("args", [])]
        if "file" in args:
            return execute(argv, args, ctx, _python_error)
        with _code_file(ctx.workspace, args["code"], sandbox.identity):
            return execute(argv, args, ctx, _python_error)
    except UsageError as mistake:
        return ToolResult(success=False, error=mistake.message)
    except SandboxError as why:
        return ToolResult(success=False, error=why.message, infrastructure=True)


@contextlib.contextmanager
def _code_file(workspace: Path, code: str, identity: Identity | None) -> Iterator[None]:
    """``code`` as a file that the task may read, for as long as the block runs."""
    prepare_workspace(workspace, identity)
    # The workspace may belong to a hostile task: nothing but a new file in that very directory is written.
    directory = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            _write_new(directory, code.encode(), identity)
        except OSError as why:
            raise SandboxError(f"the code could not be put into {workspace}: {why.strerror}") from why
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(CODE_FILE, dir_fd=directory)
        os.close(directory)


def _write_new(directory: int, content: bytes, identity: Identity | None) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(CODE_FILE, dir_fd=directory)
    fd = os.open(CODE_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    with open(fd, "wb") as file:
        if identity is not None:
            os.fchown(fd, identity.uid, identity.gid)
        file.write(content)


def _execute(
    sandbox: Sandbox,
    runtime: Runtime,
    output_cap: int,
    grace: float,
    argv: Sequence[str],
    args: dict[str, Any],
    ctx: ToolContext,
    describe: Callable[[int, str], str],
) -> ToolResult:
    done = process.run(
        sandbox,
        argv,
        workspace=ctx.workspace,
        runtime=runtime,
        env={"GHCOORD_TASK_ID": ctx.task_id, "GHCOORD_ATTEMPT": str(ctx.attempt), **args.get("env", {})},
        stdin=args["stdin"].encode() if "stdin" in args else None,
        timeout=ctx.timeout,
        grace=grace,
        cap=output_cap,
        cancelled=ctx.cancelled,
        log=ctx.log,
    )
    if done.stopped == "timeout" and ctx.timeout is not None:
        error = f"timed out after {format_duration(ctx.timeout)}"
    elif done.stopped:
        error = done.stopped
    else:
        assert done.exit_code is not None
        error = describe(done.exit_code, done.stderr) if done.exit_code else ""
    if done.leftover:
        error = f"{error}; some of its processes could not be ended".removeprefix("; ")
    return ToolResult(
        success=not error,
        output=done.stdout,
        error=error,
        exit_code=done.exit_code,
        data={"stdout": done.stdout, "stderr": done.stderr, "exit_code": done.exit_code},
        truncated=done.truncated,
    )


# -- errors


def _exit_error(exit_code: int, stderr: str) -> str:
    """``exit code 3``, with the signal's name where there was one (the shell's convention of 128 + n)."""
    try:
        name = signal.Signals(exit_code - 128).name
    except ValueError:
        return f"exit code {exit_code}"
    return f"exit code {exit_code} ({name})"


def _python_error(exit_code: int, stderr: str) -> str:
    """The last line of the traceback, or of whatever else the interpreter says with exit codes 1 and 2."""
    lines = re.findall(r"\S[^\n]*", stderr)
    return lines[-1].rstrip() if exit_code in (1, 2) and lines else _exit_error(exit_code, stderr)
