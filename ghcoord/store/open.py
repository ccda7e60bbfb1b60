"""Which driver a URL names, and opening it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from ghcoord.clock import Runtime
from ghcoord.config import Settings
from ghcoord.errors import UsageError
from ghcoord.store.base import Store
from ghcoord.store.budget.base import OnWait
from ghcoord.store.dispatching import Dispatcher

if TYPE_CHECKING:
    from ghcoord.store.budget.limits import Limits
    from ghcoord.store.github.transport import GithubApi

Driver = Literal["memory", "local", "github", "remote"]

SCHEMES = ("https://", "http://", "ssh://", "git+ssh://", "git+file://", "git://")
"""What a Git remote's URL may start with, besides ``user@host:path``."""

_SCP_LIKE = re.compile(r"[\w.-]+@[\w.-]+:")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a driver gets of the machine besides the clock.

    ``environment`` is the process's; ``state`` and ``cache`` are folders of
    this user, ``None`` where nothing can be kept.  ``on_wait`` is told before a
    wait for a server's limits.
    """

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    state: Path | None = None
    cache: Path | None = None
    on_wait: OnWait | None = None


def driver_of(url: str) -> Driver:
    """The driver for ``url``; raises ``UsageError`` for what names no hub."""
    if not url or "\0" in url:
        raise UsageError("the hub is empty: name a folder, as in --hub ./hub.git, or github:OWNER/REPOSITORY")
    if url == "memory:":
        return "memory"
    if url.startswith("github:"):
        return "github"
    if url.startswith(SCHEMES) or _SCP_LIKE.match(url):
        return "remote"
    if "://" in url and not url.startswith("file://"):
        scheme = url.partition("://")[0][:20]
        raise UsageError(f"{scheme}:// is no hub's: use a folder, github:OWNER/REPOSITORY, https:// or ssh://")
    return "local"


def local_path(url: str) -> Path | None:
    """The folder of a hub on this machine; ``None`` for the others. Raises ``UsageError``."""
    if driver_of(url) != "local":
        return None
    if url.startswith("file://"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"{url}: a file URL has three slashes, as in file:///srv/hub.git")
        return Path(unquote(parts.path))
    return Path(url).expanduser()


def open_store(url: str, runtime: Runtime, settings: Settings, around: Surroundings | None = None) -> Store:
    """The driver for ``url``; raises ``NotFound`` where nothing is, ``UsageError`` for a URL of no driver."""
    around = around or Surroundings()
    driver = driver_of(url)
    if driver == "memory":
        from ghcoord.store.inmemory import MemoryStore

        return MemoryStore(runtime.now)
    if driver == "github":
        return _open_github(url, runtime, settings, around)
    if driver == "remote":
        return _open_remote(url, runtime, settings, around)
    from ghcoord.store.local import LocalStore

    path = local_path(url)
    assert path is not None
    return LocalStore(path, runtime, settings.prefix)


def _open_github(url: str, runtime: Runtime, settings: Settings, around: Surroundings) -> Store:
    from ghcoord.store.github.driver import GithubStore

    api = github_api(url, runtime, settings, around)
    cache = None if around.cache is None else around.cache / "objects" / _name(f"{api.repo.api}{api.repo.path}")
    return GithubStore(api, runtime, settings.prefix, write=settings.github.write, cache=cache)


def github_api(url: str, runtime: Runtime, settings: Settings, around: Surroundings) -> GithubApi:
    """Access to the repository at ``url``; asks nothing yet. Raises ``UsageError``, ``Denied`` without a token."""
    from ghcoord.store.budget.governor import Governor
    from ghcoord.store.github.credentials import find_credentials
    from ghcoord.store.github.transport import GithubApi
    from ghcoord.store.github.url import parse_github_url

    repo = parse_github_url(url, around.environment.get("GHCOORD_GITHUB_API") or settings.github.api)
    credentials = find_credentials(repo, settings.github, around.environment, runtime)
    account = f"{repo.place}/{credentials.identity()}"
    budget = Governor(
        account,
        runtime,
        _limits(settings, around),
        file=_budget_file(around, account),
        settings=settings.budget,
        on_wait=around.on_wait,
    )
    accounts = None if around.state is None else around.state / "accounts.json"
    return GithubApi(repo, credentials, budget, runtime, accounts=accounts)


def open_dispatcher(
    url: str, runtime: Runtime, settings: Settings, around: Surroundings, workflow: str, ref: str
) -> Dispatcher:
    """What starts runs of ``workflow`` at ``ref`` in the repository at ``url``; asks nothing yet.

    Raises ``UsageError`` for what is not on GitHub, ``Denied`` without a token.
    """
    if driver_of(url) != "github":
        raise UsageError(f"{url} has no workflows: name their repository with --repository github:OWNER/REPOSITORY")
    from ghcoord.store.github.dispatch import GithubDispatcher

    return GithubDispatcher(github_api(url, runtime, settings, around), workflow, ref)


def _open_remote(url: str, runtime: Runtime, settings: Settings, around: Surroundings) -> Store:
    from ghcoord.store.budget.governor import Governor
    from ghcoord.store.budget.limits import Limits
    from ghcoord.store.remote.driver import RemoteStore

    if around.cache is None:
        raise UsageError("a Git remote needs a folder for its mirror: set XDG_CACHE_HOME to one that can be written")
    host = urlsplit(url).hostname or url.partition("@")[2].partition(":")[0] if "file://" not in url else ""
    limits = Limits.none() if settings.budget.limits == "none" else Limits.git_host(host or "")
    account = f"git:{host or 'file'}"
    budget = Governor(
        account,
        runtime,
        limits,
        file=_budget_file(around, account),
        settings=settings.budget,
        on_wait=around.on_wait,
    )
    mirrors = around.cache / "mirrors"
    return RemoteStore(url, runtime, settings.prefix, cache=mirrors, budget=budget, environment=around.environment)


def _limits(settings: Settings, around: Surroundings) -> Limits:
    """What to count by at first; of a server of one's own that tells of no limits the governor drops them."""
    from ghcoord.store.budget.limits import Limits

    if settings.budget.limits == "none":
        return Limits.none()
    return Limits.github_actions() if around.environment.get("GITHUB_ACTIONS") == "true" else Limits.github()


def _budget_file(around: Surroundings, account: str) -> Path | None:
    from ghcoord.store.budget.ledger import ledger_name

    return None if around.state is None else around.state / "budget" / ledger_name(account)


def _name(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
