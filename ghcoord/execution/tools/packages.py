"""``pkg.install``: packages of an index into the session's environment."""

from __future__ import annotations

from functools import partial

from pydantic import BaseModel, Field

from ghcoord.execution.environment.install import install
from ghcoord.execution.environment.requirements import split_requirements
from ghcoord.execution.tools.arguments import Arguments, declare
from ghcoord.execution.tools.kit import Kit
from ghcoord.model.tool import Tool, ToolContext, ToolResult


class _Install(Arguments):
    requirements: str = Field(description="Requirements, one a line or with spaces between, such as idna==3.10.")
    only_binary: bool | None = Field(
        default=None, description="Whether wheels only are installed; false builds in the sandbox what has none."
    )


class _Installed(BaseModel):
    installed: list[str] = Field(description="name==version of what is new or has another version than before.")
    stdout: str = Field(description="What the installer reports.")
    stderr: str = Field(description="What it complains of when it fails.")
    lock: list[str] = Field(description="name==version of everything in the environment now.")


def tools(kit: Kit) -> list[Tool]:
    """``pkg.install``, for a worker with a sandbox that has a Python."""
    if kit.sandbox is None or kit.sandbox.python is None:
        return []
    return [
        declare(
            "pkg.install",
            "Install Python packages from the package index into the session's environment.",
            _Install,
            partial(_install, kit),
            returns=_Installed,
            sandboxed=True,
        )
    ]


def _install(kit: Kit, args: _Install, ctx: ToolContext) -> ToolResult:
    requirements = split_requirements(args.requirements)
    only_binary = kit.packages.only_binary if args.only_binary is None else args.only_binary
    outcome = install(kit, ctx, requirements, only_binary=only_binary)
    done = outcome.completed
    # uv writes its report to stderr, also when all is well.
    stdout, stderr = (done.stdout, done.stderr) if outcome.error else (done.stdout + done.stderr, "")
    return ToolResult(
        success=not outcome.error,
        output=stdout,
        error=outcome.error,
        exit_code=done.exit_code,
        data={"installed": list(outcome.installed), "stdout": stdout, "stderr": stderr, "lock": list(outcome.lock)},
        truncated=done.truncated,
    )
