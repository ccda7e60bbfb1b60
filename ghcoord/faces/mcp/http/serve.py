"""Serving over HTTP until told to stop."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import uvicorn

from ghcoord.errors import Unavailable, UsageError
from ghcoord.faces.mcp.http.app import HttpLimits, http_app
from ghcoord.faces.mcp.http.auth import Callers
from ghcoord.faces.mcp.http.choose import check_reach
from ghcoord.faces.mcp.http.grants import Auth
from ghcoord.faces.mcp.http.impatient import impatient
from ghcoord.faces.mcp.http.logs import routed
from ghcoord.faces.mcp.http.security import doors
from ghcoord.faces.mcp.http.urls import is_loopback, netloc
from ghcoord.faces.mcp.running import call_soon

if TYPE_CHECKING:
    from ghcoord.faces.mcp.serve import Stop
    from ghcoord.faces.mcp.server import McpServer

Log = Callable[[str, str], None]
"""Told (level, text); levels as in ``ghcoord.execution.summary``."""

GRACE = 1
"""Seconds that requests have to end when the server stops; then they are cancelled."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_KEEPALIVE = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 30),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 60_000),
)
"""So that a client whose machine or network vanished without a word counts as gone after a minute."""


def serve_http(
    server: McpServer,
    *,
    host: str,
    port: int,
    auth: Auth,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
    public_url: str | None = None,
    log: Log,
    limits: HttpLimits | None = None,
    started: Callable[[str], None] = lambda url: None,
    stop: Stop | None = None,
) -> None:
    """Serve on ``host`` and ``port`` (0: any free one) until ``stop`` is called; then return.

    Without a ``stop`` SIGTERM and SIGINT end it, in the main thread only.
    Calls that run then are cancelled; nobody waits for their threads.
    ``started`` is told the URL once clients can connect.  Only a loopback
    address may be served without tokens.

    Raises ``UsageError`` for settings that would not be safe and ``Unavailable`` when it cannot listen there.
    """
    check_reach(host, auth)
    most = limits or HttpLimits()
    origins = tuple(allowed_origins)
    with routed(log), _listening(host, port) as listener:
        address, actual = listener.getsockname()[:2]
        if auth.verifier is None and not is_loopback(address):
            raise UsageError(f"{host} is {address}, which other machines reach: only loopback goes without tokens")
        # By its number: that is what tokens are made for, and a name may mean another address tomorrow.
        named = address if is_loopback(host) else host
        found = doors(named, actual, public_url=public_url, allowed_hosts=allowed_hosts, allowed_origins=origins)
        if not is_loopback(host) and not found.url.startswith("https:"):
            log("warn", "tokens and answers go over the network unencrypted: put a proxy with TLS before this server")
        server.callers = Callers(auth, server.callers)
        app = http_app(
            server.lowlevel,
            auth=auth,
            doors=found,
            cors=tuple(one.lower() for one in origins),
            limits=most,
            told=lambda method: log("info", f"{method} cancelled: its client is gone"),
        )
        config = uvicorn.Config(
            app,
            http=impatient(most.head_timeout),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=most.connections,
            timeout_graceful_shutdown=GRACE,
        )
        asyncio.run(_serve(_Uvicorn(config), listener, lambda: started(found.url), stop))


class _Uvicorn(uvicorn.Server):
    """Leaves signals to :func:`_serve`: its own handling would end the process afterwards."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        """Stop, the second time at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def _serve(server: _Uvicorn, listener: socket.socket, started: Callable[[], None], stop: Stop | None) -> None:
    loop = asyncio.get_running_loop()
    ending = _signals(loop, server.end) if stop is None else stop.ending(lambda: call_soon(loop, server.end))
    with ending:
        async with anyio.create_task_group() as group:
            group.start_soon(_announce, server, started)
            await server.serve(sockets=[listener])
            group.cancel_scope.cancel()


@contextmanager
def _signals(loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> Iterator[None]:
    for one in _SIGNALS:
        loop.add_signal_handler(one, end)
    try:
        yield
    finally:
        for one in _SIGNALS:
            loop.remove_signal_handler(one)


async def _announce(server: _Uvicorn, started: Callable[[], None]) -> None:
    while not server.started:
        await anyio.sleep(0.01)
    started()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        facts = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = facts[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"cannot listen on {netloc(host, port)}: {error}") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for level, option, value in _KEEPALIVE:
                if hasattr(socket, option):
                    with suppress(OSError):
                        listener.setsockopt(level, getattr(socket, option), value)
            listener.bind(address)
            listener.listen(256)
            listener.setblocking(False)
        except OSError as error:
            taken = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
            raise Unavailable(f"cannot listen on {netloc(host, port)}: {taken}") from None
        yield listener
