"""Which host a TLS client asks for: the server name in its first message (RFC 8446 §4.1.2, RFC 6066 §3)."""

from __future__ import annotations

from dataclasses import dataclass

MAX_HELLO = 64 * 1024
"""Bytes in which the first message must be whole. Those of browsers have about 2,000."""

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0


@dataclass(frozen=True, slots=True)
class Hello:
    """What the first bytes of a connection are."""

    tls: bool
    name: str = ""
    """The server name; empty when none is given."""


class _Short(Exception):
    """The field goes beyond what is there."""


def client_hello(data: bytes) -> Hello | None:
    """What ``data`` begins with; ``None`` while that cannot be said yet."""
    message = b""
    while True:
        if data and data[0] != _HANDSHAKE:
            return Hello(tls=False)
        if len(data) < 5:
            return None
        length = int.from_bytes(data[3:5], "big")
        if data[1] != 3 or length == 0:
            return Hello(tls=False)
        if len(data) < 5 + length:
            return None
        message += data[5 : 5 + length]
        data = data[5 + length :]
        if message[0] != _CLIENT_HELLO:
            return Hello(tls=False)
        if len(message) >= 4 and len(message) >= (size := 4 + int.from_bytes(message[1:4], "big")):
            break
    try:
        return Hello(tls=True, name=_server_name(message[4:size]))
    except (_Short, UnicodeDecodeError):
        return Hello(tls=False)


def _server_name(body: bytes) -> str:
    rest = _skip(body, 34)  # version and random
    _, rest = _field(rest, 1)  # session id
    _, rest = _field(rest, 2)  # cipher suites
    _, rest = _field(rest, 1)  # compression methods
    if not rest:
        return ""
    extensions, _ = _field(rest, 2)
    while extensions:
        kind = int.from_bytes(extensions[:2], "big")
        content, extensions = _field(_skip(extensions, 2), 2)
        if kind == _SERVER_NAME:
            names, _ = _field(content, 2)
            if names[:1] != bytes([_HOST_NAME]):
                raise _Short
            name, more = _field(names[1:], 2)
            if more or not name:
                raise _Short
            return name.decode("ascii").lower()
    return ""


def _skip(data: bytes, count: int) -> bytes:
    if len(data) < count:
        raise _Short
    return data[count:]


def _field(data: bytes, width: int) -> tuple[bytes, bytes]:
    """A field with its length in ``width`` bytes before it, and what follows."""
    rest = _skip(data, width)
    length = int.from_bytes(data[:width], "big")
    return rest[:length], _skip(rest, length)
