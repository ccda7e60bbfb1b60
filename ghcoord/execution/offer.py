"""What a daemon offers: its tools, and how it describes itself when it registers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ghcoord.clock import Runtime
from ghcoord.errors import UsageError
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.tools import builtin_tools
from ghcoord.hub import Hub
from ghcoord.model.tool import Tool
from ghcoord.model.worker import Capabilities, SandboxInfo


def collect_tools(
    hub: Hub, sandbox: Sandbox | None, runtime: Runtime, grace: float, only: Collection[str] | None = None
) -> dict[str, Tool]:
    """The built-in tools that ``sandbox`` allows, and the hub's registered functions, which go before them.

    With ``only`` no others than those, each of which must be there: raises ``UsageError``.
    """
    tools = {tool.name: tool for tool in builtin_tools(sandbox, runtime, grace=grace)}
    for name in hub.tools.names():
        tool = hub.tools.get(name)
        if tool is not None:
            tools[name] = tool
    if only is None:
        return tools
    for name in only:
        if name not in tools:
            raise UsageError(f"this worker has no tool {name!r}: one of {', '.join(sorted(tools))}")
    return {name: tools[name] for name in only}


def describe(hub: Hub, tools: Collection[str], types: Collection[str], labels: Mapping[str, str]) -> Capabilities:
    """This machine with its tools, the task types that it serves besides them, and its labels."""
    machine = hub.machine()
    return Capabilities(
        cpu_cores=machine.cpu_cores,
        memory_mb=machine.memory_mb,
        supported_task_types=tuple(sorted({*tools, *types})),
        tools=tuple(sorted(tools)) if types else (),
        labels=dict(labels),
    )


def sandbox_info(sandbox: Sandbox | None) -> SandboxInfo | None:
    """The sandbox as the worker's record names it."""
    return None if sandbox is None else SandboxInfo(driver=sandbox.name, tier=sandbox.tier)
