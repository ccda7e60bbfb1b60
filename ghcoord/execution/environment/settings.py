"""Where packages come from, as a worker is configured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from ghcoord.errors import UsageError

PYPI = "https://pypi.org/simple"

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_URL = re.compile(r"[!-~]{1,2000}")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class PackageSettings:
    """``index``: the package index (PEP 503). ``hosts``: what may be reached besides it, over https on port 443.

    ``only_binary``: whether wheels only are installed unless a call says
    otherwise.  ``private``: which of these hosts may have addresses of a private
    network, besides an index that is not PyPI.  Raises :class:`UsageError` for
    what cannot be used.
    """

    index: str = PYPI
    hosts: tuple[str, ...] = ("pypi.org", "files.pythonhosted.org")
    only_binary: bool = True
    private: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ = self.reach
        for host in (*self.hosts, *self.private):
            check_host(host)

    @cached_property
    def reach(self) -> Reach:
        """What a call with no hosts of its own may connect to."""
        url = _index_url(self.index)
        assert url.hostname is not None
        own = (url.hostname, url.port or _PORTS[url.scheme])
        tunnels = {(host, 443) for host in self.hosts}
        if url.scheme == "https":
            tunnels.add(own)
        plain = {own} if url.scheme == "http" else set()
        # PyPI is nowhere but in public; an index of somebody's own may be on this machine or in a private network.
        private = set(self.private) if self.index.rstrip("/") == PYPI else {own[0], *self.private}
        return Reach(frozenset(tunnels), frozenset(plain), frozenset(private))


@dataclass(frozen=True, slots=True)
class Reach:
    """Which hosts and ports a relay connects to: exactly these."""

    tunnels: frozenset[tuple[str, int]]
    """For CONNECT, that is https."""
    plain: frozenset[tuple[str, int]] = frozenset()
    """For GET and HEAD over http."""
    private: frozenset[str] = frozenset()
    """Hosts that may have addresses of this machine or of a private network."""

    def also(self, hosts: tuple[str, ...]) -> Reach:
        """The same and ``hosts``, over https on port 443. Raises :class:`UsageError`."""
        more = {(check_host(host), 443) for host in hosts}
        return Reach(self.tunnels | more, self.plain, self.private)


def check_host(text: str) -> str:
    """``text`` when it is a host's name in lower case without a port. Raises :class:`UsageError`.

    An address is none: certificates are for names.
    """
    if not _HOST.fullmatch(text) or text.rpartition(".")[2].isdigit() or text == "localhost":
        raise UsageError(f"{text[:80]!r} is no host to allow: give a name such as files.example.org, without a port")
    return text


def _index_url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    host = url.hostname or ""
    if not _URL.fullmatch(text) or url.scheme not in _PORTS or not host or port == 0 or url.query or url.fragment:
        raise UsageError(f"{text[:80]!r} is no package index: give a URL such as {PYPI}")
    if "@" in url.netloc:
        raise UsageError(
            "the URL of the package index has a user name or a password, which tasks would see: "
            "name an index that needs none, such as a mirror that signs in by itself"
        )
    if not _HOST.fullmatch(host) and not is_address(host):
        raise UsageError(f"{host[:80]!r} in the URL of the package index is no host")
    return url


def is_address(host: str) -> bool:
    """Whether ``host`` is an address instead of a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
