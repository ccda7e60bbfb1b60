"""Wheels made on the spot, and a package index on loopback that serves them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def wheel(name: str, version: str, files: Mapping[str, str | bytes], *, requires: str = "") -> tuple[str, bytes]:
    """A wheel's file name and content; ``files`` are its members besides the metadata."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires:
        metadata += f"Requires-Dist: {requires}\n"
    members = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*members, f"{info}/RECORD"])
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            archive.writestr(path, content)
    return f"{name}-{version}-py3-none-any.whl", target.getvalue()


class Index:
    """What an index serves, and what it was asked."""

    def __init__(self, packages: Mapping[str, tuple[str, bytes]]) -> None:
        self.files = dict(packages.values())
        self.projects = {name: file for name, (file, _) in packages.items()}
        self.asked: list[str] = []
        self.host_headers: set[str] = set()
        self.elsewhere: dict[str, str] = {}
        """Projects whose file is at another URL."""
        self.on_file: Callable[[BaseHTTPRequestHandler], bool] = lambda handler: False
        """Called before a file is sent; true when it has answered."""
        self.url = ""


@contextlib.contextmanager
def serve(*packages: tuple[str, bytes], tls: tuple[Path, Path] | None = None) -> Iterator[Index]:
    """An index of ``packages``, which are file names and contents.

    With ``tls``, the files of a certificate and its key, it is
    ``https://localhost``.
    """
    index = Index({file.split("-")[0].replace("_", "-"): (file, content) for file, content in packages})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            index.asked.append(self.path)
            index.host_headers.add(self.headers["Host"])
            parts = self.path.strip("/").split("/")
            if parts[0] == "simple" and len(parts) == 2 and parts[1] in index.projects:
                file = index.projects[parts[1]]
                url = index.elsewhere.get(parts[1], f"/files/{file}")
                digest = hashlib.sha256(index.files[file]).hexdigest()
                self.answer(f'<a href="{url}#sha256={digest}">{file}</a>'.encode(), "text/html")
            elif parts[0] == "files" and parts[-1] in index.files:
                if not index.on_file(self):
                    self.answer(index.files[parts[-1]], "application/octet-stream")
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def answer(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                with contextlib.suppress(OSError):
                    self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        index.url = f"https://localhost:{server.server_port}/simple"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
