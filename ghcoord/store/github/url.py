"""Which repository a URL names, and where its API is."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from ghcoord.errors import UsageError
from ghcoord.store.github.api import Repo

FORMS = "github:OWNER/REPOSITORY or github://HOST/OWNER/REPOSITORY"

_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,99})")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1")


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name without a port, is this machine."""
    return _LOOPBACK.fullmatch(host.strip("[]").lower()) is not None


def parse_github_url(url: str, api: str | None) -> Repo:
    """The repository that ``url`` names.

    ``api`` is the base URL of REST (``GHCOORD_GITHUB_API``) where it is not the
    host's usual one: ``https://api.github.com`` for github.com,
    ``https://api.SUB.ghe.com``, and ``https://HOST/api/v3`` elsewhere (plain
    http on this machine).  Raises ``UsageError`` naming the fix; it never
    repeats what may be a password.
    """
    rest = url.removeprefix("github:")
    host = "github.com"
    if rest.startswith("//"):
        host, _, rest = rest[2:].partition("/")
    if "@" in host or "@" in rest or ":" in rest or "://" in rest:
        if "@" in url:
            raise UsageError("the hub's URL holds a user or a token: leave it out and set GH_TOKEN instead")
        raise UsageError(f"{url!r} names no repository: write {FORMS}")
    host = host.lower()
    if host in ("www.github.com", "api.github.com"):
        host = "github.com"
    if not _HOST.fullmatch(host):
        raise UsageError(f"{url!r} has no proper host: write {FORMS}")
    owner, _, name = rest.removesuffix("/").partition("/")
    name = name.removesuffix(".git")
    if not _OWNER.fullmatch(owner) or not _NAME.fullmatch(name) or name in (".", ".."):
        raise UsageError(f"{url!r} names no repository: write {FORMS}")
    rest_base = base_url(api) if api else _usual(host)
    return Repo(host, owner, name, rest_base, rest_base.removesuffix("/v3") + "/graphql")


def _usual(host: str) -> str:
    if host == "github.com" or host.endswith(".ghe.com"):
        return f"https://api.{host}"
    plain = is_loopback(_without_port(host))
    return f"{'http' if plain else 'https'}://{host}/api/v3"


def git_url(repo: Repo) -> str:
    """Where git finds ``repo``, without ``.git``. The token may go there."""
    base = repo.api.removesuffix("/api/v3")
    if base == "https://api.github.com" or (base.startswith("https://api.") and base.endswith(".ghe.com")):
        base = "https://" + base.removeprefix("https://api.")
    return f"{base}/{repo.owner}/{repo.name}"


def _without_port(host: str) -> str:
    return host.rpartition(":")[0] if re.search(r":[0-9]+\Z", host) and not host.endswith("]") else host


def base_url(api: str) -> str:
    """``api``, the value of ``GHCOORD_GITHUB_API``, without a slash at its end.

    An Enterprise or loopback host without a path gets its usual one.  Raises ``UsageError``.
    """
    try:
        parts: SplitResult = urlsplit(api.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if "@" in parts.netloc:
        raise UsageError("GHCOORD_GITHUB_API holds a user or a token: leave it out and set GH_TOKEN instead")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or port == 0:
        raise UsageError(f"GHCOORD_GITHUB_API is no base URL: {api!r}: write it like https://github.example.org/api/v3")
    if parts.scheme == "http" and not is_loopback(host):
        raise UsageError(f"GHCOORD_GITHUB_API would send the token unencrypted to {host}: use https://")
    path = parts.path.rstrip("/")
    if not path and not host.startswith("api."):
        path = "/api/v3"
    return f"{parts.scheme}://{parts.netloc}{path}"
