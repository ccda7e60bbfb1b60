"""The WSGI server on loopback: werkzeug's, with open connections and with answers that break off as told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from ghcoord.twin.messages import ConnectionLost, Incoming

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
BACKLOG = 128
LOOK_EVERY = 0.02
"""Seconds between two looks at whether to stop."""

MAX_BODY = 256 * 1024 * 1024
"""Bytes that the twin takes in one request."""


class Listener:
    """Serves an application on 127.0.0.1. Each connection has its thread, and stays open between requests.

    Raises ``OSError`` if the port cannot be had.
    """

    def __init__(self, app: Application, port: int) -> None:
        self.connections: set[socket.socket] = set()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"listener": self})
        # Bound here: werkzeug would end the process where the port is taken.
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", port))
            bound.listen(BACKLOG)
            self.server: BaseWSGIServer = make_server(
                "127.0.0.1", port, app, threaded=True, request_handler=handler, fd=bound.fileno()
            )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.port

    def serve(self) -> None:
        """Take connections until :meth:`stop`."""
        self.server.serve_forever(poll_interval=LOOK_EVERY)

    def stop(self) -> None:
        """Stop listening and close what is open."""
        self.server.shutdown()
        self.server.server_close()
        with self.lock:
            for each in self.connections:
                with_reset(each, False)


def with_reset(connection: socket.socket, reset: bool) -> None:
    """End a connection for both sides; by a TCP reset if told."""
    try:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        else:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    listener: Listener

    def setup(self) -> None:
        super().setup()
        with self.listener.lock:
            self.listener.connections.add(self.connection)

    def finish(self) -> None:
        with self.listener.lock:
            self.listener.connections.discard(self.connection)
        try:
            super().finish()
        except OSError:
            return

    def run_wsgi(self) -> None:
        """Answer one request. Werkzeug's own closes the connection after each."""
        if "100-continue" in self.headers.get("Expect", "").lower():
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        environ = self.make_environ()
        size = int(self.headers.get("Content-Length") or 0)
        if size > MAX_BODY:
            self.close_connection = True
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        try:
            for data in self.server.app(environ, self._start):
                self.wfile.write(data)
            self.wfile.flush()
        except (ConnectionError, TimeoutError) as error:
            self.close_connection = True
            with_reset(self.connection, isinstance(error, ConnectionLost) and error.reset)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        self.send_response_only(int(status.split()[0]))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        return self.wfile.write

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing: the twin keeps its own log."""


def incoming_from(environ: Mapping[str, Any]) -> Incoming:
    """A request out of its WSGI environment."""
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    stream = environ["wsgi.input"]
    whole = environ.get("wsgi.input_terminated")
    body = stream.read() if whole else stream.read(int(environ.get("CONTENT_LENGTH") or 0))
    path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    base = f"{environ.get('wsgi.url_scheme', 'http')}://{environ.get('HTTP_HOST', 'twin.local')}"
    return Incoming(environ["REQUEST_METHOD"], path, environ.get("QUERY_STRING", ""), headers, body, base)
