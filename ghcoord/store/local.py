"""The local driver: a bare repository on this machine's disk.

Objects go into one pack a commit, on disk before the refs move; refs move as
:mod:`ghcoord.store.localrefs` describes.  Reading is :mod:`ghcoord.store.odb`'s.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

import pygit2

from ghcoord.clock import Runtime
from ghcoord.errors import Denied, NotFound, Unavailable, UsageError
from ghcoord.store.assemble import build_commits, check_size, compare
from ghcoord.store.base import (
    Capabilities,
    ChangeSet,
    Collected,
    CommitInfo,
    Entry,
    Oid,
    Operation,
    RawObject,
    Tell,
)
from ghcoord.store.collect import Sweep, check_alone
from ghcoord.store.localrefs import LocalRefs
from ghcoord.store.objects import TreeEditor
from ghcoord.store.odb import Objects, open_repository
from ghcoord.store.packs import consolidate, write_pack


def find_git_dir(path: Path) -> Path:
    """The git directory of the repository at ``path``, bare or not. Raises ``NotFound``."""
    try:
        # Not Path.exists(): it takes a folder that may not be entered for an error of its own kind.
        if not _present(path):
            raise NotFound(f"there is no hub at {path}: 'ghcoord init {path}' makes one")
        for candidate in (path, path / ".git"):
            if _present(candidate / "objects") and _present(candidate / "HEAD"):
                return candidate.resolve()
    except PermissionError as error:
        raise Denied(f"{path} may not be read: check its permissions and those of the folders above") from error
    except OSError as error:
        raise NotFound(f"{path} cannot be opened: {error.strerror or error}") from error
    raise NotFound(f"{path} is not a Git repository: 'ghcoord init' makes a hub in a new folder")


def _present(path: Path) -> bool:
    """Whether something is there; raises ``PermissionError`` where that may not be known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def create_repository(path: Path, default_ref: str) -> Path:
    """Make a bare repository at ``path``, or take the one that is there; returns its git directory."""
    if path.exists():
        try:
            return find_git_dir(path)
        except NotFound:
            if not path.is_dir() or any(path.iterdir()):
                raise UsageError(f"{path} exists and is not a Git repository: name a new folder") from None
    try:
        path.mkdir(parents=True, exist_ok=True)
        repository = pygit2.init_repository(str(path), bare=True)
        # Packs are merged under the hub's own lock; git's automatic gc would only get in the way.
        repository.config["gc.auto"] = "0"
        repository.config["receive.autogc"] = "false"
        repository.config["receive.denyDeleteCurrent"] = "false"
        if default_ref.startswith("refs/heads/"):  # git takes no other for its HEAD
            repository.set_head(default_ref)
    except PermissionError as error:
        raise Denied(f"cannot write to {path}: check the permissions of its folder") from error
    except (OSError, pygit2.GitError) as error:
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Denied(f"cannot write to {path}: check the permissions of its folder") from error
        raise Unavailable(f"cannot make a repository at {path}: {error}") from error
    return path.resolve()


class LocalStore:
    """Spaces as refs below ``prefix`` of the repository at ``path``."""

    def __init__(self, path: Path, runtime: Runtime, prefix: str = "refs/heads/ghcoord/") -> None:
        self.capabilities = Capabilities()
        self.url = str(path.absolute())
        self._git_dir = find_git_dir(path)
        self._packs = self._git_dir / "objects" / "pack"
        self._runtime = runtime
        self._prefix = prefix
        self._refs = LocalRefs(self._git_dir, prefix, runtime)
        self._objects = Objects(lambda: open_repository(self._git_dir), self.url)

    @property
    def budget(self) -> None:
        return None

    def heads(self) -> dict[str, Oid]:
        return self._refs.read()

    def near(self, head: Oid, paths: Collection[str]) -> None:
        """Everything is near."""

    def commit_info(self, oid: Oid) -> CommitInfo:
        return self._objects.commit_info(oid)

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._objects.tree(oid)

    def blob(self, oid: Oid) -> bytes:
        return self._objects.blob(oid)

    def commit(
        self,
        expected: Mapping[str, Oid | None],
        changes: Mapping[str, ChangeSet],
        op: Operation,
    ) -> dict[str, Oid]:
        check_size(changes, self.capabilities)
        with self._refs.exclusive():
            compare(expected, self._refs.read_all())
            editor = TreeEditor(self.tree)
            made = build_commits(editor, self.commit_info, expected, changes, op)
            try:
                write_pack(self._packs, editor.objects)
            except PermissionError as error:
                raise Denied(f"cannot write to {self._packs}: check the permissions of the hub's folder") from error
            except OSError as error:
                raise Unavailable(f"cannot write to {self._packs}: {error.strerror or error}") from error
            self._refs.move(expected, made)
            self._consolidate()
        self._objects.keep(editor)
        return made

    def _consolidate(self) -> None:
        try:
            consolidate(self._packs)
        except (OSError, ValueError, KeyError, struct.error):
            # The commit is made and durable. Merging is tried again with the next one; 'git fsck' finds damage.
            return

    def raw(self, oid: Oid) -> RawObject:
        return self._objects.raw(oid)

    def collect(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        sweep = Sweep(self._git_dir, self._refs, self._runtime, self.raw, cut, self._check_alone, tell)
        made = sweep.run(dry_run=dry_run)
        self._objects.reopen()  # lets go of the packs that are gone
        return made

    def _check_alone(self) -> None:
        self._objects.use(lambda repository: check_alone(repository, self._git_dir, self._prefix))

    def server_time(self) -> float:
        return self._runtime.now()

    def close(self) -> None:
        self._objects.close()
