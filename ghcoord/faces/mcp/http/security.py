"""Which requests are looked at at all: those that name this server, from pages that may use it, sent in time.

Without this a page in a browser reaches a server on its user's machine by a
name that it lets point there (DNS rebinding).  It holds for every path and
before any token is looked at.  A wrong ``Host`` is answered with 421, a wrong
``Origin`` with 403.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import anyio
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ghcoord.errors import UsageError
from ghcoord.faces.mcp.http.urls import (
    PATH,
    check_url,
    host_headers,
    is_loopback,
    is_wildcard,
    netloc,
    origin_of,
)

BODY_TIMEOUT = 30.0
"""Seconds in which the whole body of a request has to come."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Doors:
    """``url`` is how clients name the server, ``hosts`` and ``origins`` are the header values that are accepted."""

    url: str
    hosts: tuple[str, ...]
    origins: tuple[str, ...]


def doors(
    host: str, port: int, *, public_url: str | None, allowed_hosts: Iterable[str], allowed_origins: Iterable[str]
) -> Doors:
    """What a server that listens on ``host`` and ``port`` accepts.

    On a loopback address these are the machine's own names with that port;
    ``public_url`` adds its own.  A server on all addresses does not know its
    name and has to be told.  Raises ``UsageError``.
    """
    hosts: list[str] = []
    if is_loopback(host):
        hosts += [netloc(one, port) for one in dict.fromkeys((host.lower(), *_LOOPBACK))]
    elif not is_wildcard(host):
        hosts.append(netloc(host.lower(), port))
    origins = [f"http://{one}" for one in hosts]
    if public_url is not None:
        url = check_url(public_url, "public URL")
        hosts += host_headers(url)
        origins.append(origin_of(url))
    for one in allowed_hosts:
        if not one or any(char in one for char in "/*@, \t") or not one.isascii() or not one.isprintable():
            raise UsageError(f"the host {one[:80]!r} is not accepted: NAME or NAME:PORT, as clients send it")
        hosts.append(one.lower())
    for one in allowed_origins:
        if origin_of(check_url(one, "origin")) != one.lower():
            raise UsageError(f"the origin {one[:80]!r} is not accepted: SCHEME://HOST[:PORT], nothing after it")
        origins.append(one.lower())
    if not hosts:
        raise UsageError(f"a server on all addresses ({host}) must know its name: add --public-url https://NAME{PATH}")
    named = public_url or f"http://{hosts[0]}{PATH}"
    return Doors(named, tuple(dict.fromkeys(hosts)), tuple(dict.fromkeys(origins)))


class Doorkeeper:
    """An ASGI application around another one: refuses what did not come through the doors, or comes too slowly."""

    def __init__(self, app: ASGIApp, doors: Doors, body_timeout: float = BODY_TIMEOUT) -> None:
        self._app = app
        self._doors = doors
        self._body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        with anyio.CancelScope() as unless_late:
            await self._app(scope, _Timely(receive, self._body_timeout, unless_late), send)
        if unless_late.cancelled_caught:
            late = PlainTextResponse("The body did not come in time\n", 408, headers={"connection": "close"})
            await late(scope, receive, send)

    def _refused(self, scope: Scope) -> PlainTextResponse | None:
        given = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 or given[0] not in self._doors.hosts:
            return PlainTextResponse("This server does not go by that name (Host header)\n", status_code=421)
        pages = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"origin"]
        if any(page not in self._doors.origins for page in pages):
            return PlainTextResponse("Pages from there may not use this server (Origin header)\n", status_code=403)
        return None


class _Timely:
    """Receives a request's body; cancels ``scope`` when it takes longer than ``timeout`` seconds."""

    def __init__(self, receive: Receive, timeout: float, scope: anyio.CancelScope) -> None:
        self._receive = receive
        self._end = anyio.current_time() + timeout
        self._scope = scope
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        with anyio.CancelScope(deadline=self._end):
            message = await self._receive()
            self._complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message
        self._scope.cancel()
        await anyio.sleep_forever()
        raise AssertionError("cancelled before")
