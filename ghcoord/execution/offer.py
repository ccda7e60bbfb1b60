"""What a daemon offers: its tools, and how it describes itself when it registers."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from ghcoord.clock import Runtime
from ghcoord.errors import Denied, SandboxError, UsageError
from ghcoord.execution.checkpoints.checkpoints import Checkpoints
from ghcoord.execution.sandbox.base import Sandbox
from ghcoord.execution.sandbox.container import ContainerSettings
from ghcoord.execution.sandbox.open import open_sandbox, probe
from ghcoord.execution.session.folder import hub_folder
from ghcoord.execution.session.pool import SessionPool
from ghcoord.execution.summary import Log
from ghcoord.execution.tools.kit import Kit
from ghcoord.execution.tools.registry import builtin_tools
from ghcoord.hub import Hub
from ghcoord.model.tool import Tool
from ghcoord.model.worker import Capabilities, SandboxInfo

CHECKPOINTS = ".checkpoints"
"""Where checkpoints are kept, in the folder of the workspaces, unless another folder was named."""


def choose_sandbox(
    runtime: Runtime, choice: str, unsafe: bool, commands: bool | None, container: ContainerSettings | None, log: Log
) -> Sandbox | None:
    """The sandbox that was asked for; ``None`` when commands are not wanted, or need not be and none works.

    Raises ``SandboxError`` with the fix.
    """
    if commands is False:
        return None
    sandbox = open_sandbox(choice=choice, unsafe=unsafe, runtime=runtime, container=container)
    if sandbox is None:
        found = probe(runtime)
        why = f"{found.reason}; {found.fix}" if found.fix else found.reason
        if commands:
            raise SandboxError(f"no sandbox works here: {why}. Without one, '--no-commands' runs no commands")
        log("warn", f"no sandbox works here, so tools that start commands are not offered: {why}")
    return sandbox


def make_pool(
    hub: Hub,
    worker_id: str,
    *,
    base: Path,
    kit: Kit,
    checkpoint_dir: Path | None,
    max_checkpoints: int,
    publish: bool,
    max_sessions: int,
    stale_after: float,
    log: Log,
) -> SessionPool:
    """The sessions of a worker whose workspaces lie in ``base``; ``publish``: checkpoints go to the hub too."""
    if checkpoint_dir is not None:
        _usable(checkpoint_dir)
    folder = (checkpoint_dir or base / CHECKPOINTS) / hub_folder(hub.id)
    return SessionPool(
        hub,
        worker_id,
        base=base,
        kit=kit,
        checkpoints=Checkpoints(folder, hub, keep=max_checkpoints, publish=publish),
        max_sessions=max_sessions,
        stale_after=stale_after,
        log=log,
    )


def _usable(folder: Path) -> None:
    """Make a folder for checkpoints; raises ``Denied`` at the start rather than when there is something to save."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as why:
        raise Denied(f"cannot use {folder} for checkpoints: {why.strerror or why}") from why


def collect_tools(hub: Hub, kit: Kit, only: Collection[str] | None = None) -> dict[str, Tool]:
    """The built-in tools that ``kit`` can serve, and the hub's registered functions, which go before them.

    With ``only`` no others than those, each of which must be there: raises ``UsageError``.
    """
    tools = {tool.name: tool for tool in builtin_tools(kit)}
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
    """The sandbox as the worker's record names it, with how it keeps each limit."""
    if sandbox is None:
        return None
    return SandboxInfo.model_validate(
        {"driver": sandbox.name, "tier": sandbox.tier, "limits": sandbox.limits.summary()}
    )
