"""Hubs behind git's protocol, for the tests of the remote driver."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ghcoord.clock import SystemRuntime
from ghcoord.store.remote.driver import RemoteStore
from ghcoord.testing.contract import HubUnderTest
from tests.store.gitrepo import DEFAULT_PREFIX, QUIET, fsck, git, listing

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": QUIET["GIT_CONFIG_GLOBAL"],
    "GIT_CONFIG_SYSTEM": QUIET["GIT_CONFIG_SYSTEM"],
}
"""What the driver gets of this machine: git, and nobody's settings."""


def make_bare(path: Path, *settings: str) -> Path:
    """A new bare repository at ``path``, as a server has it."""
    path.mkdir(parents=True)
    git(path, "init", "-q", "--bare")
    for setting in settings:
        name, _, value = setting.partition("=")
        git(path, "config", name, value)
    return path


def open_remote(
    url: str,
    cache: Path,
    *,
    prefix: str = DEFAULT_PREFIX,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> RemoteStore:
    """A handle on the hub at ``url`` with its copy below ``cache``."""
    return RemoteStore(
        url,
        SystemRuntime(),
        prefix,
        cache=cache,
        budget=None,
        environment={**ENVIRONMENT, **(environment or {})},
        timeout=timeout,
    )


def under_test(
    path: Path,
    url: str,
    cache: Path,
    *,
    prefix: str = DEFAULT_PREFIX,
    environment: Mapping[str, str] | None = None,
) -> HubUnderTest:
    """The hub at ``url``, whose repository is at ``path``, for the contracts; every handle has a copy of its own."""
    count = iter(range(1000))
    return HubUnderTest(
        open=lambda: open_remote(url, cache / str(next(count)), prefix=prefix, environment=environment),
        delete_space=lambda space: git(path, "update-ref", "-d", prefix + space) and None,
        check=lambda: fsck(path),
        listing=lambda head: listing(path, head),
    )
