"""Requests that stay open: their tokens are looked at again, so that what was revoked or is over ends them too."""

from __future__ import annotations

import asyncio

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ghcoord.faces.mcp.http.auth import GrantedToken
from ghcoord.faces.mcp.http.disconnects import lost
from ghcoord.faces.mcp.http.grants import Grant, Verifier

LOOK_EVERY = 15.0
"""Seconds between two looks at the token of an open request."""


class Standing:
    """An ASGI application around another one, inside the check of tokens: ends requests whose token stands no more.

    The client sees the end of its stream, and 401 when it comes again.  A call
    of the older protocol is cancelled as one whose client is gone.
    """

    def __init__(self, app: ASGIApp, verifier: Verifier, every: float = LOOK_EVERY) -> None:
        self._app = app
        self._verifier = verifier
        self._every = every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = scope.get("user")
        token = user.access_token if isinstance(user, AuthenticatedUser) else None
        if not isinstance(token, GrantedToken):
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        with anyio.CancelScope() as open_scope:
            looking = _Looking(self._verifier, token.grant, self._every, open_scope)
            try:
                await self._app(scope, receive, answer)
            finally:
                looking.stop()
        if open_scope.cancelled_caught:
            lost(scope)
            await answer.end(scope, receive)


class _Looking:
    """Looks at a grant now and then, and cancels ``scope`` when it stands no more."""

    def __init__(self, verifier: Verifier, grant: Grant, every: float, scope: anyio.CancelScope) -> None:
        self._verifier = verifier
        self._grant = grant
        self._every = every
        self._scope = scope
        self._timer = asyncio.get_running_loop().call_later(every, self._look)

    def _look(self) -> None:
        if self._verifier.stands(self._grant):
            self._timer = asyncio.get_running_loop().call_later(self._every, self._look)
        else:
            self._scope.cancel()

    def stop(self) -> None:
        self._timer.cancel()


class _Answer:
    """Sends an answer, and knows how far it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self._ended = False

    async def __call__(self, message: Message) -> None:
        self._begun = True
        self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def end(self, scope: Scope, receive: Receive) -> None:
        """End it in the form that HTTP wants."""
        if not self._begun:
            await PlainTextResponse("The token is not good any more\n", status_code=401)(scope, receive, self._send)
        elif not self._ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
