"""A web server on loopback in front of the real ``git http-backend``, with passwords and with faults on demand."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.store.gitrepo import QUIET

USER, PASSWORD = "x-access-token", "ghp_secretSecretSecret0123456789abcdef"

Fault = Callable[["Handler"], bool]
"""Called before (its name begins with ``before``) or after a request's effect; ``True`` when it has answered."""


class GitServer(ThreadingHTTPServer):
    """Serves the repositories below ``root`` to who knows the password; writes down every request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.password: str | None = PASSWORD
        self.log: list[tuple[str, str, int]] = []
        self.ahead = 0.0
        """Seconds by which its clock is ahead."""
        self.before: list[tuple[str, Fault]] = []
        self.after: list[tuple[str, Fault]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def take(self, faults: list[tuple[str, Fault]], path: str) -> Fault | None:
        """The first fault meant for ``path``, once."""
        for at, (part, fault) in enumerate(faults):
            if part in path:
                del faults[at]
                return fault
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


class Handler(BaseHTTPRequestHandler):
    server: GitServer
    protocol_version = "HTTP/1.1"

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(int(time.time() + self.server.ahead))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to standard error."""

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.server.log.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def hang_up(self) -> bool:
        self.server.log.append((self.command, self.path, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def serve(self) -> None:
        body = self.body()
        if not self.known():
            self.answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"who are you?")
            return
        fault = self.server.take(self.server.before, self.path)
        if fault is not None and fault(self):
            return
        status, headers, out = self.backend(body)
        fault = self.server.take(self.server.after, self.path)
        if fault is not None and fault(self):
            return
        self.answer(status, headers, out)

    def known(self) -> bool:
        if self.server.password is None:
            return True
        given = self.headers.get("Authorization", "").removeprefix("Basic ")
        return f"{USER}:{self.server.password}" == base64.b64decode(given).decode(errors="replace")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def backend(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        path, _, query = self.path.partition("?")
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "http-backend"],
            input=body,
            capture_output=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                **QUIET,
                "GIT_PROJECT_ROOT": str(self.server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "REMOTE_USER": USER,
                "REMOTE_ADDR": "127.0.0.1",
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            },
        )
        head, _, out = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        return int(headers.pop("Status", "200").split()[0]), headers, out


@contextlib.contextmanager
def served(root: Path) -> Iterator[GitServer]:
    """A server for what lies below ``root``, ended afterwards."""
    server = GitServer(root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def helper(password: str = PASSWORD) -> dict[str, str]:
    """Git settings as a user has them, with a credential helper that knows the password."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": f"!f() {{ echo username={USER}; echo password={password}; }}; f",
    }
