"""Whose token is used, and where it comes from. The environment is handed in."""

from __future__ import annotations

import hashlib
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from ghcoord.clock import Runtime
from ghcoord.config import GithubSettings
from ghcoord.errors import Denied
from ghcoord.store.github.api import Repo
from ghcoord.store.github.url import base_url, is_loopback, parse_github_url

ENTERPRISE_VARIABLES = ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN")
VARIABLES = ("GH_TOKEN", "GITHUB_TOKEN")

GH_TIMEOUT = 10.0
"""Seconds that ``gh auth token`` may take; it may ask a key ring."""

_TOKEN = re.compile(r"[!-~]{1,8192}")


class Credentials(Protocol):
    """A token that may change. Thread-safe; neither ``str`` nor ``repr`` shows it."""

    def token(self) -> str:
        """The token to send now. Raises ``Denied`` and ``Unavailable``."""
        ...

    def identity(self) -> str:
        """The same for the same account, as far as can be told without asking; never the token."""
        ...

    def refresh(self) -> bool:
        """After the server did not accept it: whether there is another token now."""
        ...


def fingerprint(token: str) -> str:
    """What stands for ``token`` in files."""
    return "token:" + hashlib.sha256(token.encode()).hexdigest()[:24]


KINDS = {
    "github_pat_": "a fine-grained token",
    "ghp_": "a classic token",
    "gho_": "a token of a login in the browser",
    "ghu_": "a token of an app's user",
    "ghs_": "a token of an app or a workflow",
}
"""What the beginning of a token says of it (it is public)."""


def kind_of(token: str) -> str:
    """What kind of token it is, in words."""
    return next((kind for start, kind in KINDS.items() if token.startswith(start)), "a token")


class TokenCredentials:
    """A token from an environment variable, ``source``."""

    def __init__(self, token: str, source: str) -> None:
        self._token = token
        self.source = source

    def token(self) -> str:
        return self._token

    def identity(self) -> str:
        return fingerprint(self._token)

    def refresh(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"TokenCredentials(source={self.source!r})"


class GhCredentials:
    """The token of ``gh``, GitHub's program; asked again when it is not accepted."""

    source = "gh auth token"

    def __init__(self, host: str, environment: Mapping[str, str], token: str) -> None:
        self._host = host
        self._environment = environment
        self._token = token
        self._lock = threading.Lock()

    def token(self) -> str:
        return self._token

    def identity(self) -> str:
        return fingerprint(self._token)

    def refresh(self) -> bool:
        with self._lock:
            token = ask_gh(self._host, self._environment)
            if token is None or token == self._token:
                return False
            self._token = token
            return True

    def __repr__(self) -> str:
        return f"GhCredentials(host={self._host!r})"


def find_credentials(
    repo: Repo, settings: GithubSettings, environment: Mapping[str, str], runtime: Runtime
) -> Credentials:
    """The token for ``repo``.

    In this order: ``GH_TOKEN``, ``GITHUB_TOKEN``, the GitHub App that is
    configured, ``gh auth token``.  Other hosts than github.com and ghe.com
    have ``GH_ENTERPRISE_TOKEN`` and ``GITHUB_ENTERPRISE_TOKEN``, as with
    ``gh``; the token of github.com goes elsewhere only to this machine, or
    where ``GHCOORD_GITHUB_API`` of the environment names that place.  What
    ``gh`` or an App has for a host does not go where only a configuration file
    says its API is: that may be anybody's.  Raises
    ``Denied`` naming the fix when there is none, and for one that is no token.
    """
    variables = _variables(repo, environment)
    for name in variables:
        if (value := environment.get(name)) is not None:
            return TokenCredentials(checked(value, name), name)
    home = _is_home(repo, environment)
    app = environment.get("GHCOORD_GITHUB_APP_ID") or settings.app
    if app and home:
        from ghcoord.store.github.app_auth import AppCredentials

        key_file = environment.get("GHCOORD_GITHUB_APP_KEY_FILE") or settings.key_file
        if not key_file:
            raise Denied("the GitHub App has no key: set github.key_file, or GHCOORD_GITHUB_APP_KEY_FILE")
        installation = environment.get("GHCOORD_GITHUB_APP_INSTALLATION") or settings.installation
        return AppCredentials(repo, app, installation, Path(key_file).expanduser(), runtime)
    if home and (token := ask_gh(repo.host, environment)) is not None:
        return GhCredentials(repo.host, environment, token)
    if repo.place != repo.host:
        raise Denied(f"no token for {repo.place}: set {variables[-2]}")
    raise Denied(f"no token for {repo.host}: set {variables[0]}, or run 'gh auth login{_hostname(repo.host)}'")


def _is_home(repo: Repo, environment: Mapping[str, str]) -> bool:
    """Whether the API is the host's own, on this machine, or named by the environment."""
    named = environment.get("GHCOORD_GITHUB_API")
    if is_loopback((urlsplit(repo.api).hostname or "").lower()) or (named and base_url(named) == repo.api):
        return True
    return repo.api == parse_github_url(f"github://{repo.host}/{repo.owner}/{repo.name}", None).api


def _variables(repo: Repo, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The variables whose token may go where ``repo`` is, the first to be taken first."""
    place = (urlsplit(repo.api).hostname or "").lower()
    if place == "api.github.com" or place.endswith(".ghe.com"):
        return VARIABLES
    named = environment.get("GHCOORD_GITHUB_API")
    if is_loopback(place) or (named and base_url(named) == repo.api):
        return (*ENTERPRISE_VARIABLES, *VARIABLES)
    return ENTERPRISE_VARIABLES


def _hostname(host: str) -> str:
    return "" if host == "github.com" else f" --hostname {host}"


def checked(token: str, source: str) -> str:
    """``token`` without blanks around it; raises ``Denied`` for what can be none."""
    token = token.strip()
    if not token:
        raise Denied(f"{source} is empty: set it to a token, or unset it")
    if not _TOKEN.fullmatch(token):
        raise Denied(f"{source} has blanks or line ends or is no plain text: set it to the token alone")
    return token


def ask_gh(host: str, environment: Mapping[str, str]) -> str | None:
    """What ``gh auth token`` says; ``None`` when there is no ``gh``, or it has none for ``host``."""
    quiet = {**environment, "GH_PROMPT_DISABLED": "1", "GH_NO_UPDATE_NOTIFIER": "1", "NO_COLOR": "1"}
    for name in (*VARIABLES, *ENTERPRISE_VARIABLES):
        quiet.pop(name, None)
    try:
        done = subprocess.run(
            ["gh", "auth", "token", "--hostname", host],
            env=quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GH_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode:
        return None
    try:
        return checked(done.stdout.decode(), "what 'gh auth token' says")
    except (UnicodeDecodeError, Denied):
        return None
