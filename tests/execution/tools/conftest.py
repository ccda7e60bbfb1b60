"""What the tests of tools share: a context, a kit, and a way to call."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ghcoord.clock import SystemRuntime
from ghcoord.execution.sandbox.base import Sandbox, current_identity
from ghcoord.execution.sandbox.none import NoSandbox
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.tools.registry import builtin_tools
from ghcoord.model.limits import Limits
from ghcoord.model.tool import Tool, ToolResult

RUNTIME = SystemRuntime()


@dataclass
class Context:
    """A :class:`ToolContext` that keeps what it is told."""

    workspace: Path
    timeout: float | None = None
    task_id: str = "t1"
    attempt: int = 1
    session_id: str | None = None
    trace: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    allow: tuple[str, ...] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    logs: list[tuple[str, str]] = field(default_factory=list)

    def keep(self, name: str) -> Path:
        folder = self.workspace.parent / "keep" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def cancelled(self) -> bool:
        return self.stop.is_set()

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        self.logs.append(("progress", f"{fraction} {message}"))

    def log(self, stream: str, text: str) -> None:
        self.logs.append((stream, text))


Call = Callable[..., ToolResult]


def named(tools: list[Tool]) -> dict[str, Tool]:
    """Tools by name."""
    return {tool.name: tool for tool in tools}


@pytest.fixture
def ctx() -> Iterator[Context]:
    """A context with a workspace that root's tasks can reach."""
    directory = Path(tempfile.mkdtemp(prefix="ghcoord-test-"))
    directory.chmod(0o711)
    (directory / "workspace").mkdir()
    yield Context(directory / "workspace")
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def session(ctx: Context) -> Context:
    """The same context, in a session."""
    return replace(ctx, session_id="s1")


@pytest.fixture
def kit() -> Kit:
    """A kit without any protection, which starts fastest and is there everywhere."""
    return Kit(NoSandbox(current_identity()), RUNTIME, grace=0.5)


@pytest.fixture(params=["bwrap", pytest.param("none", marks=pytest.mark.slow)])
def tools(request: pytest.FixtureRequest, kit: Kit) -> dict[str, Tool]:
    """The built-in tools on each sandbox in turn."""
    if request.param == "none":
        return named(builtin_tools(kit))
    sandbox: Sandbox = request.getfixturevalue("bwrap")
    return named(builtin_tools(replace(kit, sandbox=sandbox)))


@pytest.fixture
def call(tools: dict[str, Tool], ctx: Context) -> Call:
    """Call a tool with arguments, outside a session."""
    return lambda tool, **args: tools[tool].run(args, ctx)


@pytest.fixture
def plain(kit: Kit) -> dict[str, Tool]:
    """The built-in tools without a sandbox, for what does not depend on it."""
    return named(builtin_tools(kit))


@pytest.fixture
def fs(plain: dict[str, Tool], ctx: Context) -> Call:
    """Call a file tool."""
    return lambda tool, **args: plain[f"fs.{tool}"].run(args, ctx)


Fields = dict[str, Any]
