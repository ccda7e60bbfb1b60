"""Running one command for a tool: the call's variables and limits in, a uniform result out."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

from ghcoord.clock import Runtime
from ghcoord.errors import SandboxError
from ghcoord.execution import process
from ghcoord.execution.environment.make import environment_python, make_environment
from ghcoord.execution.environment.network import network_of
from ghcoord.execution.process import Completed
from ghcoord.execution.sandbox.base import SYSTEM_PATH, Sandbox
from ghcoord.execution.tools.arguments import Returns
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.limits import Limits
from ghcoord.model.session import Usage
from ghcoord.model.tool import ToolContext, ToolResult
from ghcoord.units import format_duration


@runtime_checkable
class Metered(Protocol):
    """A call's context that adds up what its commands use."""

    def used(self, usage: Usage) -> None:
        """A command has ended that used so much."""
        ...


class CommandResult(Returns):
    """``data`` of a tool that runs a command."""

    stdout: str
    stderr: str
    exit_code: int | None


@dataclass(frozen=True)
class Commands:
    """A kit that has a sandbox."""

    kit: Kit
    sandbox: Sandbox

    @property
    def runtime(self) -> Runtime:
        """The worker's."""
        return self.kit.runtime

    def run(
        self,
        ctx: ToolContext,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> Completed:
        """Run ``argv`` for a call, under its limits. ``env`` goes before the session's own variables.

        It reaches the hosts that the session may reach.

        Raises :class:`SandboxError` and :class:`UsageError`.
        """
        limits = ctx.limits.under(self.kit.limits)
        with network_of(self.sandbox, ctx, self.runtime) as network:
            done = process.run(
                self.sandbox,
                network.argv(argv),
                workspace=ctx.workspace,
                runtime=self.runtime,
                env={**self.variables(ctx), **(env or {})},
                stdin=None if stdin is None else stdin.encode(),
                timeout=timeout_of(ctx),
                grace=self.kit.grace,
                cap=cap_of(self.kit, limits),
                limits=limits,
                mounts=network.mounts,
                cancelled=ctx.cancelled,
                log=ctx.log,
                log_cap=process.LOG_CAP,
            )
        if isinstance(ctx, Metered):
            ctx.used(done.usage)
        return done

    def variables(self, ctx: ToolContext) -> dict[str, str]:
        """What every command of the call finds in its environment."""
        found = {"GHCOORD_TASK_ID": ctx.task_id, "GHCOORD_ATTEMPT": str(ctx.attempt)}
        if ctx.session_id is not None:
            found["GHCOORD_SESSION_ID"] = ctx.session_id
        if ctx.trace:
            found["TRACEPARENT"] = ctx.trace
        python = self.python(ctx)
        if python is not None and python != self.sandbox.python:
            programs, _, _ = python.rpartition("/")
            found["VIRTUAL_ENV"] = programs.removesuffix("/bin")
            found["PATH"] = ":".join([programs, str(PurePosixPath(self.sandbox.python or "/").parent), SYSTEM_PATH])
        return {**found, **ctx.env}

    def needed_python(self, ctx: ToolContext) -> str:
        """Like :meth:`python` where there must be one. Raises :class:`SandboxError`."""
        found = self.python(ctx)
        if found is None:
            raise SandboxError("the sandbox has no Python: install python3 on the worker's machine")
        return found

    def python(self, ctx: ToolContext) -> str | None:
        """The interpreter for the call: its environment's, which a session always has; ``None`` without any.

        Raises :class:`SandboxError` when the environment cannot be made.
        """
        found = environment_python(ctx.workspace, self.sandbox)
        if found is None and ctx.session_id is not None and self.sandbox.python is not None:
            make_environment(ctx.workspace, self.sandbox, self.runtime)
            found = environment_python(ctx.workspace, self.sandbox)
        return found or self.sandbox.python


def timeout_of(ctx: ToolContext) -> float | None:
    """Seconds that the call's command may take."""
    return Limits(timeout=ctx.timeout).under(ctx.limits).timeout


def cap_of(kit: Kit, limits: Limits) -> int:
    """Bytes kept of each stream."""
    return kit.output_cap if limits.output_kb is None else min(kit.output_cap, limits.output_kb * 1024)


def result_of(done: Completed, ctx: ToolContext, describe: Callable[[int, str], str]) -> ToolResult:
    """The result of a command; ``describe`` makes the error message of an exit code and stderr."""
    error = stop_error(done, ctx) or (describe(done.exit_code, done.stderr) if done.exit_code else "")
    return ToolResult(
        success=not error,
        output=done.stdout,
        error=error,
        exit_code=done.exit_code,
        data={"stdout": done.stdout, "stderr": done.stderr, "exit_code": done.exit_code},
        truncated=done.truncated,
    )


def stop_error(done: Completed, ctx: ToolContext) -> str:
    """Why the command was stopped, in words; empty when it ended by itself and left nothing."""
    limits = ctx.limits
    timeout = timeout_of(ctx)
    reasons = {
        "timeout": f"timed out after {format_duration(timeout)}" if timeout is not None else "timed out",
        "memory": f"used more memory than the limit memory_mb allows{_of(limits.memory_mb, ' MiB')}",
        "cpu": f"used more CPU time than the limit cpu_seconds allows{_of(limits.cpu_seconds, ' s')}",
        "processes": f"started more processes than the limit allows{_of(limits.processes, '')}",
        "workspace": f"wrote more than the limit workspace_mb allows{_of(limits.workspace_mb, ' MiB')}",
    }
    error = reasons.get(done.stopped, done.stopped) if done.stopped else ""
    if done.leftover:
        error = f"{error}; some of its processes could not be ended".removeprefix("; ")
    return error


def _of(limit: float | None, unit: str) -> str:
    return "" if limit is None else f": {limit:g}{unit}"


def exit_error(exit_code: int, stderr: str) -> str:
    """``exit code 3``, with the signal's name where there was one (the shell's convention of 128 + n)."""
    try:
        name = signal.Signals(exit_code - 128).name
    except ValueError:
        return f"exit code {exit_code}"
    return f"exit code {exit_code} ({name})"


def python_error(exit_code: int, stderr: str) -> str:
    """The last line of the traceback, or of whatever else the interpreter says with exit codes 1 and 2."""
    lines = re.findall(r"\S[^\n]*", stderr)
    return lines[-1].rstrip() if exit_code in (1, 2) and lines else exit_error(exit_code, stderr)
