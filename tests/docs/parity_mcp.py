"""Scenarios of the rows of ``docs/parity.md`` about the MCP server."""

from __future__ import annotations

import logging
import socket
from typing import Any

import anyio
from mcp.client import Client

from ghcoord.faces.mcp.clients.base import WorkerClient
from ghcoord.faces.mcp.clients.local import LocalWorkerClient
from ghcoord.faces.mcp.clients.remote import HubWorkerClient
from ghcoord.faces.mcp.server import McpServer, build_server
from ghcoord.testing.worker_client import FakeWorkerClient
from tests.docs.stage import Stage, row


def _tools(server: McpServer) -> tuple[str, set[str]]:
    """The version that a client is told, and the names of the tools."""

    async def ask() -> tuple[str, set[str]]:
        async with Client(server.lowlevel) as client:
            return client.server_info.version, {one.name for one in (await client.list_tools()).tools}

    return anyio.run(ask)


@row("MCP server: NewMCPServer")
def _build(stage: Stage) -> None:
    server = build_server(stage.hub, name="codegen", version="1.2.3", workers=FakeWorkerClient(stage.hub))
    version, names = _tools(server)
    assert "1.2.3" == version
    assert {"fs_read", "fs_write", "fs_list", "run_python", "pkg_install", "echo"} <= names
    assert 2 == stage.cli("mcp", "--toolsets", "nonsense", "--read-only").code


@row("MCP server: Serve")
def _serve(stage: Stage) -> None:
    served: list[Any] = []
    stage.monkeypatch.setattr("ghcoord.faces.mcp.serve.serve_stdio", lambda server, stop: served.append(server))
    server = build_server(stage.hub, workers=FakeWorkerClient(stage.hub))
    server.serve()
    server.serve(logging.getLogger("ghcoord.tests"))
    assert [server, server] == served
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = stage.cli("mcp", "--http", f"127.0.0.1:{port}", "--no-auth", "--toolsets", "hub")
    assert 7 == failed.code
    assert 1 == len(failed.err.splitlines())


@row("MCP server: WorkerClient")
def _clients(stage: Stage) -> None:
    clients: list[type[WorkerClient]] = [LocalWorkerClient, HubWorkerClient, FakeWorkerClient]
    for one in clients:
        assert {"tools", "create", "execute", "status", "destroy", "checkpoint", "restore"} <= set(dir(one))
    assert 2 == stage.cli("mcp", "--remote", "--max-sessions", "3").code
