"""Addresses: where the server listens, and the URL by which clients and tokens name it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from ghcoord.errors import UsageError

PATH = "/mcp"
"""Where the protocol is spoken."""

DEFAULT_RESOURCE = "http://127.0.0.1:8321/mcp"
"""The server that ``token create`` makes tokens for unless told otherwise, and that the documentation starts."""

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[ADDRESS]:PORT`` or ``PORT`` alone, on this machine only. Port 0 is any free one.

    Raises ``UsageError``.
    """
    host, mark, port = text.rpartition(":")
    if not mark:
        host = "127.0.0.1"
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or not host or (":" in host and "[" not in text):
        raise UsageError(f"{text[:80]!r} is no address to listen on: HOST:PORT, as in 127.0.0.1:8321 or [::1]:8321")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``. A name other than ``localhost`` does not count."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether ``host`` means all addresses of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def netloc(host: str, port: int) -> str:
    """As in a URL or a ``Host`` header."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_url(text: str, what: str) -> str:
    """``text`` as an http or https URL without user, query and fragment. Raises ``UsageError``."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        url, port = SplitResult("", "", "", "", ""), None
    plain = not (url.query or url.fragment or url.username or url.password or "?" in text or "#" in text)
    if url.scheme not in _PORTS or not url.hostname or not plain or port == 0 or not _is_host(url.hostname):
        raise UsageError(f"the {what} {text[:80]!r} is not accepted: a URL such as https://mcp.example.org/mcp")
    return text


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(_HOST.fullmatch(host.lower()))
    return True


def same_resource(one: str, other: str) -> bool:
    """Whether two URLs name one server: case of the host, a usual port and a last slash do not matter."""
    try:
        return _normal(one) == _normal(other)
    except ValueError:
        return False


def _normal(text: str) -> tuple[str | int | None, ...]:
    url = urlsplit(text)
    return (
        url.scheme.lower(),
        (url.hostname or "").lower(),
        url.port or _PORTS.get(url.scheme.lower()),
        url.path.rstrip("/"),
        url.query,
        url.fragment,
        url.username,
        url.password,
    )


def host_headers(url: str) -> tuple[str, ...]:
    """The ``Host`` headers that clients of ``url`` send."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    usual = _PORTS[parts.scheme]
    port = parts.port or usual
    name = f"[{host}]" if ":" in host else host
    return (name, f"{name}:{port}") if port == usual else (f"{name}:{port}",)


def origin_of(url: str) -> str:
    """The ``Origin`` header of pages of ``url``."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{host_headers(url)[0]}"
