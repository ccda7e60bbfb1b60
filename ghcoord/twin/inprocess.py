"""Clients in the twin's own process, without sockets: on a virtual clock nothing else would be repeatable.

``with in_process(twin):`` gives the twin a loopback URL that only this process
knows; every ``requests`` session reaches it there, PyGithub's too, and meets
lost connections as it would over a socket.  :func:`connection_classes` is for
``Requester.injectConnectionClasses``.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import IncompleteRead, RemoteDisconnected
from itertools import count
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.exceptions import ProtocolError

from ghcoord.twin.messages import ConnectionLost, Incoming
from ghcoord.twin.rest import Reply
from ghcoord.twin.server import Twin

_twins: dict[str, Twin] = {}
_numbers = count(1)
_lock = threading.Lock()


class TwinAdapter(HTTPAdapter):
    """Answers for a ``requests`` session: ``session.mount(twin.url, TwinAdapter(twin))``."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self.twin = twin

    def send(self, request: requests.PreparedRequest, *_: Any, **settings: Any) -> requests.Response:
        """Have the twin answer. Raises what ``requests`` would."""
        return _send(self, self.twin, request, settings.get("timeout"))


@contextmanager
def in_process(twin: Twin) -> Iterator[str]:
    """Let all ``requests`` sessions of this process reach the twin at ``twin.url``; yields that."""
    with _lock:
        # Ports below 1024 listen to nobody here, so a request that got out would be refused.
        place = f"127.0.0.1:{next(_numbers) % 1000 + 1}"
        if not _twins:
            HTTPAdapter.send = _routed  # type: ignore[method-assign]
        _twins[place] = twin
    twin.place = place
    try:
        yield twin.url
    finally:
        twin.place = None
        with _lock:
            del _twins[place]
            if not _twins:
                HTTPAdapter.send = _real_send  # type: ignore[method-assign]


def connection_classes(twin: Twin) -> tuple[type, type]:
    """The pair (http, https) for ``github.Requester.Requester.injectConnectionClasses``."""
    made = type("TwinConnection", (_Connection,), {"adapter": TwinAdapter(twin)})
    return made, made


class _Connection:
    """As PyGithub calls its connections."""

    adapter: TwinAdapter

    def __init__(self, host: str, port: int | None = None, **settings: Any) -> None:
        self.host = host
        self.port = port
        self.timeout = settings.get("timeout")
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, self.adapter)
        self._asked: tuple[str, str, Any, Mapping[str, str]] = ("", "", None, {})

    def request(self, verb: str, url: str, input: Any, headers: Mapping[str, str], stream: bool = False) -> None:
        """Keep what is to be sent."""
        self._asked = (verb, url, input, headers)

    def getresponse(self) -> _Response:
        """Send it."""
        verb, url, data, headers = self._asked
        place = f"http://{self.host}:{self.port or 80}{url}"
        found = self.session.request(
            verb, place, data=data, headers=headers, timeout=self.timeout, allow_redirects=False
        )
        return _Response(found)

    def close(self) -> None:
        """Nothing is open."""
        self.session.close()


class _Response:
    def __init__(self, found: requests.Response) -> None:
        self.response = found
        self.status = found.status_code
        self.headers = found.headers

    def getheaders(self) -> Any:
        return self.headers.items()

    def read(self) -> str:
        return self.response.text


_real_send = HTTPAdapter.send


def _routed(self: HTTPAdapter, request: requests.PreparedRequest, *args: Any, **settings: Any) -> requests.Response:
    twin = _twins.get(urlsplit(request.url or "").netloc)
    if twin is None:
        return _real_send(self, request, *args, **settings)
    return _send(self, twin, request, settings.get("timeout"))


def _send(adapter: HTTPAdapter, twin: Twin, request: requests.PreparedRequest, timeout: Any) -> requests.Response:
    parts = urlsplit(request.url or "")
    body: Any = request.body or b""
    data: bytes = body.encode() if isinstance(body, str) else body.read() if hasattr(body, "read") else bytes(body)
    incoming = Incoming(
        request.method or "GET",
        unquote(parts.path),
        parts.query,
        {name.lower(): _text(value) for name, value in request.headers.items()},
        data,
        f"{parts.scheme}://{parts.netloc.removesuffix(':80')}",
        timeout[1] if isinstance(timeout, tuple) else timeout,
    )
    try:
        reply = twin.handle(incoming)
    except ConnectionLost as lost:
        raise _as_requests(lost, request) from None
    if reply.truncated:
        half = len(reply.payload()) // 2
        broken = IncompleteRead(b"", len(reply.payload()) - half)
        raise requests.exceptions.ChunkedEncodingError(ProtocolError(f"Connection broken: {broken!r}", broken))
    return adapter.build_response(request, _raw(reply))


def _as_requests(lost: ConnectionLost, request: requests.PreparedRequest) -> requests.RequestException:
    if lost.timeout:
        return requests.exceptions.ReadTimeout("Read timed out.", request=request)
    cause: Exception = ConnectionResetError(104, "Connection reset by peer")
    if not lost.reset:
        cause = RemoteDisconnected("Remote end closed connection without response")
    return requests.exceptions.ConnectionError(ProtocolError("Connection aborted.", cause), request=request)


def _raw(reply: Reply) -> HTTPResponse:
    body = reply.payload()
    headers = {"content-type": reply.content_type, "content-length": str(len(body)), **reply.headers}
    return HTTPResponse(io.BytesIO(body), headers, reply.status, preload_content=False)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
