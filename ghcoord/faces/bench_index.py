"""A package index on loopback with two small wheels, for measuring: nothing leaves the machine."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ghcoord.clock import Runtime

PACKAGES = ("bench-one", "bench-two")
"""Their names; modules that do nothing."""


@contextmanager
def serve_index(runtime: Runtime) -> Iterator[str]:
    """The index, by its URL."""
    wheels = {f"{name.replace('-', '_')}-1.0-py3-none-any.whl": _wheel(name) for name in PACKAGES}

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rstrip("/").rpartition("/")[2]
            if name in wheels:
                self._answer(wheels[name], "application/zip")
            elif name in PACKAGES:
                file = f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
                digest = hashlib.sha256(wheels[file]).hexdigest()
                self._answer(f'<a href="/files/{file}#sha256={digest}">{file}</a>'.encode(), "text/html")
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def _answer(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = runtime.spawn(partial(server.serve_forever, 0.05), "ghcoord-bench-index")
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)


def _wheel(name: str) -> bytes:
    """The smallest wheel of a module that does nothing."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-1.0.dist-info"
    files = {
        f"{module}.py": b"",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: ghcoord\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return packed.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
