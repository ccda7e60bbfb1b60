"""The worker's end of the relay: an HTTP proxy on a unix socket that connects to few hosts and to nothing else.

A sandbox has no network.  A command that may reach some hosts gets a socket
mounted and runs below :mod:`ghcoord.execution.environment.relay_inside`; here
each request is read strictly, its host looked up in the list, resolved and
checked by the worker, and connected.  What goes through a tunnel is TLS, of
which only the name that the client asks for is looked at.

Limits stated: hosts on one content network can share addresses and
certificates, and what a task sends through TLS to an allowed host is not seen.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import threading
from functools import partial
from pathlib import Path

from ghcoord.clock import Runtime, Thread
from ghcoord.execution.environment.addresses import AddressRefused, Resolve, connect, resolve, usable
from ghcoord.execution.environment.relay_requests import MAX_HEAD, Refused, Request, read_request
from ghcoord.execution.environment.settings import Reach, is_address
from ghcoord.execution.environment.tls import MAX_HELLO, client_hello
from ghcoord.execution.sandbox.base import Identity
from ghcoord.execution.sockets import bind

MAX_CONNECTIONS = 32
"""Connections at a time; more wait for their turn."""

MAX_REQUESTS = 10_000
"""Connections in a relay's life."""

MAX_DOWN = 8 * 1024**3
MAX_UP = 64 * 1024**2
"""Bytes in a relay's life, to the task and from it."""

HEAD_TIMEOUT = 10.0
"""Seconds in which the whole head of a request, and that of a TLS connection, must come."""

CONNECT_TIMEOUT = 15.0
IDLE_TIMEOUT = 120.0
"""Seconds without a byte after which a connection ends."""

CLOSE_TIMEOUT = 2.0
"""Seconds to wait for connections to end; one that is resolving a name ends by itself later."""

_CHUNK = 65536
_TOLD = 20
_HOP = frozenset(("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "trailer", "upgrade"))


class Relay:
    """A proxy that listens at :attr:`path` until it is closed. Its methods may be called from any thread."""

    def __init__(
        self,
        reach: Reach,
        runtime: Runtime,
        path: Path,
        *,
        identity: Identity | None = None,
        ask: Resolve = resolve,
    ) -> None:
        """Listen at ``path``, for ``identity`` only. Raises ``OSError``."""
        self.path = path
        self._reach = reach
        self._runtime = runtime
        self._ask = ask
        self._mutex = threading.Lock()
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._threads: list[Thread] = []
        self._closed = False
        self._up, self._down, self._requests = MAX_UP, MAX_DOWN, MAX_REQUESTS
        self._refused: dict[str, None] = {}
        self._failed: dict[str, None] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            bind(self._listener, path)
            os.chmod(path, 0o600)
            if identity is not None:
                os.chown(path, identity.uid, identity.gid)
            self._listener.listen(128)
        except OSError:
            self._listener.close()
            raise
        self._threads.append(runtime.spawn(self._accept, "relay"))

    @property
    def refused(self) -> list[str]:
        """What was asked and not allowed, one sentence each; the first twenty."""
        with self._mutex:
            return list(self._refused)

    @property
    def failed(self) -> list[str]:
        """Allowed hosts that could not be reached, one sentence each."""
        with self._mutex:
            return list(self._failed)

    def close(self) -> None:
        """End every connection and take the socket away."""
        with self._mutex:
            self._closed = True
            for each in self._open:
                _hang_up(each)
        _hang_up(self._listener)
        deadline = self._runtime.monotonic() + CLOSE_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._runtime.monotonic()))
        self._listener.close()
        self.path.unlink(missing_ok=True)

    # -- connections

    def _accept(self) -> None:
        while True:
            self._free.acquire()
            try:
                client, _ = self._listener.accept()
            except OSError:
                self._free.release()
                return
            with self._mutex:
                self._threads = [each for each in self._threads if each.is_alive()]
                self._requests -= 1
                if self._requests >= 0 and not self._closed:
                    self._open.add(client)
                    self._threads.append(self._runtime.spawn(partial(self._handle, client), "relay"))
                    continue
            client.close()
            self._free.release()

    def _handle(self, client: socket.socket) -> None:
        try:
            # A task ends its connection whenever it likes; there is nobody to tell.
            with contextlib.suppress(OSError):
                self._serve(client)
        finally:
            self._drop(client)
            self._free.release()

    def _serve(self, client: socket.socket) -> None:
        deadline = self._runtime.monotonic() + HEAD_TIMEOUT
        try:
            head, rest = self._read_head(client, deadline)
            request = read_request(head, self._reach)
            if rest and request.method != "CONNECT":
                raise Refused(400, "one request a connection")
            upstream = self._connect(request)
        except Refused as refusal:
            if refusal.status == 403:
                self._tell(self._refused, refusal.text)
            client.sendall(_answer(refusal.status, refusal.text))
            return
        try:
            upstream.settimeout(IDLE_TIMEOUT)
            client.settimeout(IDLE_TIMEOUT)
            if request.method == "CONNECT":
                self._tunnel(request, client, upstream, rest)
            else:
                self._fetch(request, client, upstream)
        except http.client.HTTPException:
            self._tell(self._failed, f"{request.host} broke off, or answered what is no HTTP")
        finally:
            self._drop(upstream)

    def _read_head(self, client: socket.socket, deadline: float) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            if len(data) > MAX_HEAD:
                raise Refused(431, f"the head of the request has more than {MAX_HEAD} bytes")
            data += self._receive(client, deadline)
        head, end, rest = data.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD:
            raise Refused(431, f"the head of the request has more than {MAX_HEAD} bytes")
        return head + end, rest

    def _receive(self, client: socket.socket, deadline: float) -> bytes:
        """The next bytes before ``deadline``. Raises ``OSError`` at the end of the connection."""
        left = deadline - self._runtime.monotonic()
        if left <= 0:
            raise Refused(408, f"the request did not come within {HEAD_TIMEOUT:.0f} s")
        client.settimeout(left)
        try:
            data = client.recv(_CHUNK)
        except TimeoutError:
            raise Refused(408, f"the request did not come within {HEAD_TIMEOUT:.0f} s") from None
        if not data:
            raise ConnectionResetError
        return data

    def _connect(self, request: Request) -> socket.socket:
        host, port = request.host, request.port
        try:
            addresses = usable(host, port, host in self._reach.private, self._ask)
            upstream = connect(addresses, port, CONNECT_TIMEOUT)
        except AddressRefused as why:
            raise Refused(403, str(why)) from None
        except (OSError, UnicodeError) as why:
            text = f"{host}:{port} cannot be reached: {getattr(why, 'strerror', None) or why}"
            self._tell(self._failed, text)
            raise Refused(502, text) from None
        with self._mutex:
            if not self._closed:
                self._open.add(upstream)
                return upstream
        upstream.close()
        raise ConnectionResetError

    def _drop(self, connection: socket.socket) -> None:
        with self._mutex:
            self._open.discard(connection)
        connection.close()

    def _tell(self, where: dict[str, None], text: str) -> None:
        with self._mutex:
            if len(where) < _TOLD:
                where[text] = None

    def _count(self, up: int, down: int) -> None:
        """Take from what the relay may carry. Raises ``OSError`` once that is used up."""
        with self._mutex:
            self._up -= up
            self._down -= down
            over = "send" if self._up < 0 else "receive" if self._down < 0 else ""
        if over:
            most = MAX_UP if over == "send" else MAX_DOWN
            self._tell(self._refused, f"one call may {over} at most {most >> 20} MiB")
            raise ConnectionResetError

    # -- carrying

    def _tunnel(self, request: Request, client: socket.socket, upstream: socket.socket, early: bytes) -> None:
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        hello = self._hello(request, client, early)
        self._count(len(hello), 0)
        upstream.sendall(hello)
        other = {client: upstream, upstream: client}
        by_fd = {each.fileno(): each for each in other}
        client.settimeout(IDLE_TIMEOUT)
        poll = select.poll()
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        while by_fd:
            ready = poll.poll(IDLE_TIMEOUT * 1000)
            if not ready:
                return
            for fd, _ in ready:
                source = by_fd[fd]
                data = source.recv(_CHUNK)
                self._count(*((len(data), 0) if source is client else (0, len(data))))
                if data:
                    other[source].sendall(data)
                else:
                    poll.unregister(fd)
                    del by_fd[fd]
                    other[source].shutdown(socket.SHUT_WR)

    def _hello(self, request: Request, client: socket.socket, data: bytes) -> bytes:
        """The client's first TLS message, which must ask for the host of the tunnel. Raises ``OSError`` otherwise."""
        deadline = self._runtime.monotonic() + HEAD_TIMEOUT
        while (hello := client_hello(data)) is None and len(data) <= MAX_HELLO:
            try:
                data += self._receive(client, deadline)
            except Refused:
                raise ConnectionResetError from None
        expected = ("", request.host) if is_address(request.host) else (request.host,)
        if hello is None or not hello.tls or hello.name not in expected:
            asked = f"TLS for {hello.name or 'no name'}" if hello is not None and hello.tls else "no TLS"
            self._tell(self._refused, f"{asked} was sent to {request.host}")
            raise ConnectionResetError
        return data

    def _fetch(self, request: Request, client: socket.socket, upstream: socket.socket) -> None:
        connection = http.client.HTTPConnection(request.host, request.port)
        connection.sock = upstream
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, value in request.headers:
            connection.putheader(name, value)
        connection.putheader("Connection", "close")
        self._count(len(request.path) + sum(len(name) + len(value) for name, value in request.headers), 0)
        connection.endheaders()
        response = connection.getresponse()
        with response:
            client.sendall(_head(response))
            while data := response.read1(_CHUNK):
                self._count(0, len(data))
                client.sendall(data)
        _hang_up(client)


def _head(response: http.client.HTTPResponse) -> bytes:
    """The status and the headers for the client: one answer a connection, its body as it was read."""
    lines = [f"HTTP/1.1 {response.status:03d} {''.join(c for c in response.reason if ' ' <= c <= '~')}"]
    dropped = _HOP | ({"transfer-encoding", "content-length"} if response.chunked else {"transfer-encoding"})
    for name, value in response.getheaders():
        if name.lower() not in dropped and "\r" not in value and "\n" not in value:
            lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1", "replace")


def _answer(status: int, text: str) -> bytes:
    body = f"ghcoord's relay: {text}\n".encode()
    head = f"HTTP/1.1 {status} {http.client.responses[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
