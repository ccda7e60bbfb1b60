"""Calls whose client is gone.

In the protocol of 2026-07-28 a closed connection cancels its call, and the SDK
does that at once.  In the older revisions it does not: a client may say that it
cancels, but one that was killed says nothing, and its call would run to the
end.  Its answer could go nowhere, as nothing is kept for resuming.  So a call
is cancelled when its connection has been closed for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GONE_TTL = 15.0
"""Seconds that a call of the older protocol runs on after its client's connection was closed."""

_KEY = "ghcoord.connection"
_CANCELLED = -32800  # "request cancelled", as the SDK and the Language Server Protocol have it


class Connection:
    """Whether the client of one request is still there, and what to do when it is not."""

    def __init__(self) -> None:
        self._gone = False
        self._then: list[Callable[[], None]] = []

    def lost(self) -> None:
        """The client is gone."""
        self._gone = True
        while self._then:
            self._then.pop()()

    def when_lost(self, act: Callable[[], None]) -> Callable[[], None]:
        """Call ``act`` once the client is gone, at once if it is; returns what takes that back."""
        if self._gone:
            act()
            return lambda: None
        self._then.append(act)

        def forget() -> None:
            if act in self._then:
                self._then.remove(act)

        return forget


class Watched:
    """An ASGI application around another one that notes when a request's client closes its connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = Connection()
        scope[_KEY] = connection

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                connection.lost()
            return message

        await self._app(scope, watched, send)


def lost(scope: Scope) -> None:
    """Whoever made the request of ``scope`` counts as gone."""
    connection = scope.get(_KEY)
    if isinstance(connection, Connection):
        connection.lost()


class Reaper:
    """Middleware of the SDK's server: cancels a request ``ttl`` seconds after its client's connection was closed.

    ``told`` is called with the name of the method for each.
    """

    def __init__(self, ttl: float = GONE_TTL, told: Callable[[str], None] = lambda method: None) -> None:
        self._ttl = ttl
        self._told = told

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        connection = (getattr(ctx.request, "scope", None) or {}).get(_KEY)
        if not isinstance(connection, Connection) or ctx.request_id is None:
            return await call_next(ctx)
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        with anyio.CancelScope() as scope:
            forget = connection.when_lost(lambda: timers.append(loop.call_later(self._ttl, scope.cancel)))
            try:
                return await call_next(ctx)
            finally:
                forget()
                for timer in timers:
                    timer.cancel()
        self._told(ctx.method)
        raise MCPError(code=_CANCELLED, message="The connection of this request was closed")
