"""What one user may have of a server at a time, so that there is some left for the others."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, AuthorizationContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Requests:
    """An ASGI application around another one, inside the check of tokens: 429 above ``most`` requests of one user."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = scope.get("user")
        who = user.access_token.subject if isinstance(user, AuthenticatedUser) else None
        if who is None:
            await self._app(scope, receive, send)
            return
        if self._open[who] >= self._most:
            headers = {"retry-after": "5"}
            refused = PlainTextResponse(f"You have {self._most} requests open\n", 429, headers=headers)
            await refused(scope, receive, send)
            return
        self._open[who] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]


class SessionManager(StreamableHTTPSessionManager):
    """The SDK's, with ``most`` protocol sessions of a user; a further one is refused as if there were no room."""

    def __init__(self, app: Server[Any], most: int, **options: Any) -> None:
        super().__init__(app, **options)
        self._most = most

    def _admit_session(self, requestor: AuthorizationContext | None) -> StreamableHTTPServerTransport | None:
        if requestor is not None:
            user = requestor["subject"]
            if sum(owner["subject"] == user for owner in self._session_owners.values()) >= self._most:
                return None
        return super()._admit_session(requestor)
