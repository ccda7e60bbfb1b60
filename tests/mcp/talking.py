"""Clients for tests: the SDK's own, to a server in this process or to one that is a process of its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import CallToolResult, TextContent

from ghcoord.faces.mcp.adapter import Adapter
from ghcoord.faces.mcp.answer import Answer
from ghcoord.faces.mcp.call import Services
from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.catalog import Catalog
from ghcoord.faces.mcp.server import McpServer
from ghcoord.faces.mcp.toolspec import ToolSpec

LATEST = "2026-07-28"
ERAS = ("legacy", "auto")
"""Modes of the SDK's client: the handshake of the older protocol, and the newest."""

ANN = Caller("ann", "default", "mcp-test")

T = TypeVar("T")


class Unrecorded:
    """An auditor that keeps nothing but the names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def run(
        self, name: str, caller: Caller, arguments: Mapping[str, Any], trace: str, run: Callable[[], Answer]
    ) -> Answer:
        self.names.append(name)
        return run()


def server_of(services: Services, *specs: ToolSpec, caller: Caller = ANN, **choice: Any) -> McpServer:
    """A server with these tools alone. Faults that it logs are in ``server.said``."""
    said: list[str] = []
    adapter = Adapter(
        services,
        Catalog(specs, **choice),
        auditor=Unrecorded(),
        identify=lambda ctx: caller,
        log=lambda level, text: said.append(f"{level}: {text}"),
    )
    server = McpServer(adapter, "test", "1")
    server.said = said  # type: ignore[attr-defined]
    return server


def talk(server: McpServer | StdioServerParameters, say: Callable[[Client], Awaitable[T]], mode: str = "auto") -> T:
    """What ``say`` returns of a client that is connected to ``server``."""

    async def run() -> T:
        async with connected(server, mode) as client:
            return await say(client)

    return anyio.run(run)


@asynccontextmanager
async def connected(server: McpServer | StdioServerParameters, mode: str = "auto") -> AsyncIterator[Client]:
    """A client of ``server``, by one of :data:`ERAS`."""
    end = server.lowlevel if isinstance(server, McpServer) else server
    async with Client(end, mode=mode) as client:
        expected = LATEST if mode == "auto" else "2025-11-25"
        assert expected == client.session.protocol_version
        yield client


def call(
    server: McpServer, name: str, arguments: Mapping[str, Any] | None = None, mode: str = "auto"
) -> CallToolResult:
    """One call of a tool."""
    return talk(server, lambda client: client.call_tool(name, dict(arguments or {})), mode)


def text(result: CallToolResult) -> str:
    """The text of an answer."""
    assert 1 == len(result.content)
    part = result.content[0]
    assert isinstance(part, TextContent)
    return part.text


def stdio(folder: Path, *args: str, hub: Path | str | None = None) -> StdioServerParameters:
    """``ghcoord mcp`` as a client starts it, with its state below ``folder``."""
    named = [] if hub is None else ["--hub", str(hub)]
    repository = Path(__file__).parents[2]
    return StdioServerParameters(
        command=sys.executable,
        args=["-W", "error", "-m", "ghcoord", *named, "mcp", *args],
        env={"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(repository)},
        cwd=folder,
    )


def data(result: CallToolResult) -> dict[str, Any]:
    """The data of an answer that is no failure."""
    assert not result.is_error, text(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


def names(tools: Sequence[Any]) -> list[str]:
    """The names of tools."""
    return [tool.name for tool in tools]
