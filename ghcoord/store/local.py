"""The local driver: a bare repository on this machine's disk.

Objects go into one pack a commit, on disk before the refs move; refs move as
:mod:`ghcoord.store.localrefs` describes.  Reading goes through libgit2, which
also understands what people push and what ``git gc`` makes of it.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path

import pygit2

from ghcoord.clock import Runtime
from ghcoord.errors import Corrupt, Denied, NotFound, Unavailable, Unsupported, UsageError
from ghcoord.store.assemble import build_commits, check_size, compare
from ghcoord.store.base import (
    Capabilities,
    ChangeSet,
    Collected,
    CommitInfo,
    Entry,
    Kind,
    Oid,
    Operation,
    RawObject,
    Tell,
)
from ghcoord.store.collect import Sweep, check_alone
from ghcoord.store.localrefs import LocalRefs
from ghcoord.store.objects import Tree, TreeEditor, parse_commit, parse_tree
from ghcoord.store.packs import consolidate, write_pack
from ghcoord.store.recent import Recent, tree_size

_KINDS: dict[int, Kind] = {
    int(pygit2.enums.ObjectType.COMMIT): "commit",
    int(pygit2.enums.ObjectType.TREE): "tree",
    int(pygit2.enums.ObjectType.BLOB): "blob",
}
RECENT_BYTES = 8 * 1024 * 1024
"""Objects just written that are kept in memory, in bytes, so that reading them back costs nothing."""

RECENT_TREES = 16 * 1024 * 1024
"""Trees kept parsed, in bytes: the next commit edits those of the last."""

REOPEN_AFTER = 256
"""Objects read from disk before the repository is opened afresh.

libgit2 keeps a file descriptor and two mappings of each pack it has ever read,
also of those that were merged into another and deleted since.
"""


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
        self._mutex = threading.Lock()
        self._recent: OrderedDict[Oid, RawObject] = OrderedDict()
        self._recent_bytes = 0
        self._trees: Recent[Tree] = Recent(RECENT_TREES)
        self._reads = 0
        self._repository = self._open()

    def _open(self) -> pygit2.Repository:
        try:
            repository = pygit2.Repository(str(self._git_dir))
            extensions = {str(entry.name).lower() for entry in repository.config}
        except (pygit2.GitError, KeyError, ValueError) as error:
            if "failed to stat" in str(error):
                raise Denied(f"Git's settings cannot be read ({error}): does HOME belong to you?") from error
            if "owned by" in str(error):
                raise Denied(
                    f"{self._git_dir} belongs to another user: 'git config --global --add safe.directory "
                    f"{self._git_dir}' says that you trust it"
                ) from error
            raise Unsupported(f"{self._git_dir} cannot be opened as a Git repository: {error}") from error
        if "extensions.objectformat" in extensions or "extensions.refstorage" in extensions:
            raise Unsupported(f"{self._git_dir} uses SHA-256 or reftables: a hub needs an ordinary repository")
        return repository

    @property
    def budget(self) -> None:
        return None

    def heads(self) -> dict[str, Oid]:
        return self._refs.read()

    def near(self, head: Oid, paths: Collection[str]) -> None:
        """Everything is near."""

    def commit_info(self, oid: Oid) -> CommitInfo:
        return parse_commit(oid, self._raw(oid, "commit"))

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._trees.get(oid, self._parsed, tree_size)

    def _parsed(self, oid: Oid) -> Tree:
        return parse_tree(self._raw(oid, "tree"))

    def blob(self, oid: Oid) -> bytes:
        return self._raw(oid, "blob")

    def _raw(self, oid: Oid, kind: Kind) -> bytes:
        with self._mutex:
            found = self._recent.get(oid)
            if found is None:
                found = self._read_odb(oid)
        if found[0] != kind:
            raise Corrupt(f"object {oid} is a {found[0]}, not a {kind}")
        return found[1]

    def _reopen(self) -> None:
        self._repository.free()
        self._repository = self._open()
        self._reads = 0

    def _read_odb(self, oid: Oid) -> RawObject:
        self._reads += 1
        if self._reads > REOPEN_AFTER:
            self._reopen()
        for last in (False, True):
            try:
                number, data = self._repository.odb.read(oid)
                return _KINDS[int(number)], data
            except (KeyError, pygit2.GitError, OSError, ValueError) as error:
                # Another process may have merged packs that this handle still lists: look afresh, once.
                if last:
                    raise Corrupt(f"object {oid} cannot be read from {self.url}: run 'git fsck' there") from error
                self._reopen()
        raise AssertionError("unreachable")

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
        self._keep(editor)
        return made

    def _keep(self, editor: TreeEditor) -> None:
        for tree_oid, tree in editor.trees.items():
            self._trees.put(tree_oid, tree, tree_size(tree))
        with self._mutex:
            for oid, made in editor.objects.items():
                if oid not in self._recent:
                    self._recent[oid] = made
                    self._recent_bytes += len(made[1])
            while self._recent_bytes > RECENT_BYTES:
                _, (_, data) = self._recent.popitem(last=False)
                self._recent_bytes -= len(data)

    def _consolidate(self) -> None:
        try:
            consolidate(self._packs)
        except (OSError, ValueError, KeyError, struct.error):
            # The commit is made and durable. Merging is tried again with the next one; 'git fsck' finds damage.
            return

    def raw(self, oid: Oid) -> RawObject:
        with self._mutex:
            return self._read_odb(oid)

    def collect(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        sweep = Sweep(self._git_dir, self._refs, self._runtime, self.raw, cut, self._check_alone, tell)
        made = sweep.run(dry_run=dry_run)
        with self._mutex:
            self._reopen()  # lets go of the packs that are gone
        return made

    def _check_alone(self) -> None:
        with self._mutex:
            check_alone(self._repository, self._git_dir, self._prefix)

    def server_time(self) -> float:
        return self._runtime.now()

    def close(self) -> None:
        with self._mutex:
            self._recent.clear()
            self._repository.free()
