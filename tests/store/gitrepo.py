"""A local hub for tests, looked at and disturbed through the real ``git`` program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ghcoord.clock import SystemRuntime
from ghcoord.store.local import LocalStore, create_repository
from ghcoord.testing.contract import HubUnderTest

DEFAULT_PREFIX = "refs/heads/ghcoord/"
"""Where the driver keeps its spaces unless told otherwise."""

QUIET = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "A Person",
    "GIT_AUTHOR_EMAIL": "person@example.invalid",
    "GIT_COMMITTER_NAME": "A Person",
    "GIT_COMMITTER_EMAIL": "person@example.invalid",
}


def git(where: Path, *arguments: str) -> str:
    """What ``git`` prints; fails the test when git fails."""
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", *arguments],
        cwd=where,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, f"git {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def fsck(path: Path) -> None:
    """``git fsck --strict`` finds nothing worth a word besides unreachable objects."""
    said = git(path, "fsck", "--strict", "--no-dangling")
    notices = ("notice: HEAD points to an unborn branch", "notice: No default references")
    assert [] == [line for line in said.splitlines() if not line.startswith(notices)]


def make_hub(path: Path) -> Path:
    """A new bare repository at ``path``."""
    return create_repository(path, DEFAULT_PREFIX + "fleet")


def open_store(path: Path) -> LocalStore:
    return LocalStore(path, SystemRuntime())


def locks_left(path: Path) -> list[str]:
    """Every ``.lock`` file in the repository."""
    return sorted(str(found.relative_to(path)) for found in path.rglob("*.lock"))


def listing(path: Path, head: str) -> dict[str, str]:
    """The files of a commit as ``git ls-tree`` reads them."""
    out = git(path, "ls-tree", "-r", "-z", head)
    return {line.split("\t", 1)[1]: line.split()[2] for line in out.split("\0") if line}


def under_test(path: Path) -> HubUnderTest:
    """The hub at ``path`` for the contracts."""
    return HubUnderTest(
        open=lambda: open_store(path),
        delete_space=lambda space: git(path, "update-ref", "-d", DEFAULT_PREFIX + space) and None,
        check=lambda: fsck(path),
        listing=lambda head: listing(path, head),
    )
