"""A server over HTTP for tests, in a thread of this process, and clients for it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import anyio
import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

from ghcoord.faces.mcp.caller import Caller
from ghcoord.faces.mcp.http.grants import Auth
from ghcoord.faces.mcp.http.serve import serve_http
from ghcoord.faces.mcp.serve import Stop
from ghcoord.faces.mcp.server import McpServer

LATEST = "2026-07-28"
ERAS = ("legacy", LATEST)

T = TypeVar("T")


@contextmanager
def serving(server: Any, auth: Auth | None = None, **options: Any) -> Iterator[str]:
    """``server`` on a free port of this machine; its URL."""
    stop, ready = Stop(), threading.Event()
    urls: list[str] = []
    failed: list[BaseException] = []

    def started(url: str) -> None:
        urls.append(url)
        ready.set()

    def run() -> None:
        try:
            serve_http(
                cast(McpServer, server),
                **{
                    "host": "127.0.0.1",
                    "port": 0,
                    "auth": auth or Auth(None),
                    "log": lambda level, text: None,
                    **options,
                },
                started=started,
                stop=stop,
            )
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    if failed:
        thread.join()
        raise failed[0]
    try:
        yield urls[0]
    finally:
        stop()
        thread.join(10)
        assert not thread.is_alive()
        if failed:
            raise failed[0]


def run(play: Callable[[], Awaitable[T]]) -> T:
    """``anyio.run(play)``; of the errors of task groups the first that is one."""
    try:
        return anyio.run(play)
    except BaseExceptionGroup as several:
        error: BaseException = several
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


@asynccontextmanager
async def connected(url: str, token: str = "", mode: str = LATEST, **options: Any) -> AsyncIterator[Client]:
    """The SDK's client of a server, with a token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, verify=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **options) as client,
    ):
        yield client


@dataclass
class Plain:
    """A server of two tools: ``who`` tells the caller, ``wait`` waits until it is cancelled, and notes that."""

    callers: Any = field(default=lambda ctx: Caller("local", "default", "here"))
    waiting: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.lowlevel: Server[Any] = Server("plain", on_list_tools=self._list, on_call_tool=self._call)

    async def _list(self, ctx: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name=one, input_schema={"type": "object"}) for one in ("who", "wait")])

    async def _call(self, ctx: Any, params: Any) -> CallToolResult:
        caller = self.callers(ctx)
        if params.name == "wait":
            self.waiting.set()
            try:
                await anyio.sleep(60)
            except BaseException:
                self.cancelled.set()
                raise
        text = f"{caller.user_id} {caller.workspace_id} {caller.owner} {caller.shared} {caller.read_only}"
        return CallToolResult(content=[TextContent(type="text", text=text)])
