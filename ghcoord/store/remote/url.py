"""Which remote repository a URL names, and what of it is refused before ``git`` sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from ghcoord.errors import UsageError

Scheme = Literal["https", "http", "ssh", "file"]

FORMS = "https://HOST/PATH.git, ssh://USER@HOST/PATH.git, git@HOST:PATH.git or git+file:///PATH.git"

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+%-]*")
_SCP = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._+-]*)@([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?):([^:].*)")
_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1")
_TOKEN = re.compile(r"gh[a-z]_.*|github_pat_.*|glpat-.*|.{36,}")
"""What stands in the place of a user's name and is a secret."""

_TEXT = re.compile(r"[\x21-\x7e\x80-\U0010ffff]+")


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote repository: ``url`` as people write it, ``git_url`` as git takes it, ``host`` with its port."""

    url: str
    git_url: str
    scheme: Scheme
    host: str

    @property
    def name(self) -> str:
        """The host without its port."""
        return self.host.rpartition(":")[0] if re.search(r":[0-9]+$", self.host) else self.host


def is_remote_url(url: str) -> bool:
    """Whether ``url`` is for this driver (right or not)."""
    return url.startswith(("https://", "http://", "ssh://", "git+file://")) or _SCP.fullmatch(url) is not None


def parse_remote_url(url: str) -> Remote:
    """The repository that ``url`` names; raises ``UsageError``, which never repeats what may be a password."""
    if url.startswith("-") or not _TEXT.fullmatch(url):
        raise UsageError(f"the hub's URL has spaces, control characters or begins with '-': write {FORMS}")
    if "://" not in url:
        return _scp(url)
    parts = urlsplit(url)
    if "@" in parts.netloc and ":" in parts.netloc.rpartition("@")[0]:
        raise UsageError(
            "the hub's URL holds a password: leave it out; git's credential helpers, or GH_TOKEN for GitHub, hold it"
        )
    if parts.query or parts.fragment:
        raise UsageError("the hub's URL has a '?' or a '#': a repository's URL has neither")
    if parts.scheme == "git+file":
        return _file(url, parts.netloc, parts.path)
    user, _, host = parts.netloc.rpartition("@")
    if _TOKEN.fullmatch(user):
        raise UsageError(
            "the hub's URL holds a token: leave it out; git's credential helpers, or GH_TOKEN for GitHub, hold it"
        )
    if not _HOST.fullmatch(host) or (user and not _USER.fullmatch(user)) or not parts.path.strip("/"):
        raise UsageError(f"the hub's URL names no repository: write {FORMS}")
    host = host.lower()
    if parts.scheme == "https":
        return Remote(url, url, "https", host)
    if parts.scheme == "http":
        remote = Remote(url, url, "http", host)
        if not is_loopback(remote.name):
            raise UsageError(
                f"http://{host} would send credentials in clear text: write https:// (http:// is for this machine only)"
            )
        return remote
    if parts.scheme == "ssh":
        if parts.path.startswith("/-"):
            raise UsageError(f"the path in the hub's URL begins with '-': write {FORMS}")
        return Remote(url, url, "ssh", host)
    raise UsageError(f"{parts.scheme}:// is not for hubs: write {FORMS}")


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name without a port, is this machine."""
    return _LOOPBACK.fullmatch(host.strip("[]").lower()) is not None


def _scp(url: str) -> Remote:
    match = _SCP.fullmatch(url)
    if match is None or match[3].startswith("-"):
        raise UsageError(f"{url!r} names no remote repository: write {FORMS}")
    return Remote(url, url, "ssh", match[2].lower())


def _file(url: str, host: str, path: str) -> Remote:
    if host not in ("", "localhost") or not path.strip("/"):
        raise UsageError("a file URL has three slashes, as in git+file:///srv/hub.git")
    plain = unquote(path)
    if "\n" in plain or "\0" in plain:
        raise UsageError("the path in the hub's URL has a line end or a zero byte")
    return Remote(url, f"file://{plain}", "file", "localhost")
