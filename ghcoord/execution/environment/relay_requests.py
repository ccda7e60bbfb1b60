"""What a task may ask of the relay: a pure reading of the head of a request.

Strict where HTTP is lenient: a task that sends what two readers could
understand in two ways is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from ghcoord.execution.environment.settings import Reach

MAX_HEAD = 16 * 1024
"""Bytes of the longest head that is read."""

_LINE = re.compile(r"(CONNECT|GET|HEAD) ([!-~]{1,8000}) HTTP/1\.[01]")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}):[ \t]*([ -~\t]*)")
_AUTHORITY = re.compile(r"([a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\]):([1-9][0-9]{0,4})", re.IGNORECASE)
_PASSED_ON = frozenset(
    ["accept", "accept-encoding", "accept-language", "user-agent", "range", "if-range", "cache-control"]
) | frozenset(["if-none-match", "if-modified-since"])
_BODY = frozenset(("content-length", "transfer-encoding", "trailer", "upgrade", "expect", "te"))


class Refused(Exception):
    """A request that is not carried out; ``text`` tells the task why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Request:
    """A request for an allowed host. Of the headers only those that choose the content are kept."""

    method: Literal["CONNECT", "GET", "HEAD"]
    host: str
    port: int
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def read_request(head: bytes, reach: Reach) -> Request:
    """The request in ``head``, which ends with the empty line. Raises :class:`Refused`."""
    try:
        text = head.decode("ascii")
    except UnicodeDecodeError:
        raise Refused(400, "the request has bytes that are not ASCII") from None
    first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise Refused(400, "only CONNECT, and GET and HEAD of a whole URL are carried out")
    fields = [_field(each) for each in lines]
    names = [name for name, _ in fields]
    if given := _BODY.intersection(names):
        raise Refused(400, f"a request with {', '.join(sorted(given))} is not carried out")
    hosts = [value for name, value in fields if name == "host"]
    if len(hosts) > 1:
        raise Refused(400, "the request has more than one Host")
    method, target = line.groups()
    if method == "CONNECT":
        return _tunnel(target, hosts, reach)
    return _fetch("HEAD" if method == "HEAD" else "GET", target, hosts, fields, reach)


def _field(line: str) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise Refused(400, "the request has a header that cannot be read")
    return match[1].lower(), match[2].strip()


def _tunnel(target: str, hosts: list[str], reach: Reach) -> Request:
    host, port = _authority(target)
    if (host, port) not in reach.tunnels:
        raise Refused(403, f"{host}:{port} is not among the hosts that this worker and this session allow")
    if hosts and hosts[0].lower() not in (target.lower(), target.rpartition(":")[0].lower()):
        raise Refused(400, "Host names another host than the request")
    return Request("CONNECT", host, port)


def _fetch(
    method: Literal["GET", "HEAD"], target: str, hosts: list[str], fields: list[tuple[str, str]], reach: Reach
) -> Request:
    scheme, colon, rest = target.partition("://")
    authority, _, path = rest.partition("/")
    if not colon or scheme.lower() != "http" or "#" in rest or "?" in authority or "\\" in rest:
        raise Refused(400, "only http URLs are fetched; https goes through CONNECT")
    host, port = _authority(authority if _AUTHORITY.fullmatch(authority) else f"{authority}:80")
    if (host, port) not in reach.plain:
        raise Refused(403, f"http://{host}:{port} is not the package index")
    if hosts and hosts[0].lower() != authority.lower():
        raise Refused(400, "Host names another host than the request")
    kept = tuple((name, value) for name, value in fields if name in _PASSED_ON)
    return Request(method, host, port, f"/{path}", kept)


def _authority(text: str) -> tuple[str, int]:
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise Refused(400, f"{text[:80]!r} is no host and port")
    host = match[1].lower()
    if host.startswith("["):
        host = urlsplit(f"//{host}").hostname or ""
    return host, int(match[2])
