"""Which driver a URL names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ghcoord.clock import Runtime
from ghcoord.errors import UsageError
from ghcoord.store.base import Store

DEFAULT_PREFIX = "refs/heads/ghcoord/"


def local_path(url: str) -> Path | None:
    """The folder that ``url`` names; ``None`` for ``memory:``. Raises ``UsageError`` for what is not local."""
    if not url or "\0" in url:
        raise UsageError("the hub is empty: name a folder, as in --hub ./hub.git")
    if url == "memory:":
        return None
    if url.startswith("file://"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise UsageError(f"{url}: a file URL has three slashes, as in file:///srv/hub.git")
        return Path(unquote(parts.path))
    if "://" in url or url.startswith(("git@", "github:")):
        raise UsageError(f"this version opens local hubs only: name a folder instead of {url.split('@')[-1]!r}")
    return Path(url).expanduser()


def open_store(url: str, runtime: Runtime, prefix: str = DEFAULT_PREFIX) -> Store:
    """The driver for ``url``; raises ``NotFound`` where nothing is, ``UsageError`` for a URL of no driver."""
    path = local_path(url)
    if path is None:
        from ghcoord.store.inmemory import MemoryStore

        return MemoryStore(runtime.now)
    from ghcoord.store.local import LocalStore

    return LocalStore(path, runtime, prefix)
