"""Reading the objects of a repository on this machine's disk, for the drivers that have one.

Reading goes through libgit2, which also understands what people push and what
git makes of it; what was just written is read from memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import pygit2

from ghcoord.errors import Corrupt, Denied, Unsupported
from ghcoord.store.base import CommitInfo, Entry, Kind, Oid, RawObject
from ghcoord.store.objects import Tree, TreeEditor, parse_commit, parse_tree
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


def open_repository(git_dir: Path) -> pygit2.Repository:
    """The repository at ``git_dir``. Raises ``Denied`` and ``Unsupported``."""
    try:
        repository = pygit2.Repository(str(git_dir))
        extensions = {str(entry.name).lower() for entry in repository.config}
    except (pygit2.GitError, KeyError, ValueError) as error:
        if "failed to stat" in str(error):
            raise Denied(f"Git's settings cannot be read ({error}): does HOME belong to you?") from error
        if "owned by" in str(error):
            raise Denied(
                f"{git_dir} belongs to another user: 'git config --global --add safe.directory "
                f"{git_dir}' says that you trust it"
            ) from error
        raise Unsupported(f"{git_dir} cannot be opened as a Git repository: {error}") from error
    if "extensions.objectformat" in extensions or "extensions.refstorage" in extensions:
        raise Unsupported(f"{git_dir} uses SHA-256 or reftables: a hub needs an ordinary repository")
    return repository


class Objects:
    """The objects of the repository that ``open_repository`` opens. Thread-safe.

    ``where`` names it in messages.
    """

    def __init__(self, open_repository: Callable[[], pygit2.Repository], where: str) -> None:
        self._open = open_repository
        self._where = where
        self._mutex = threading.Lock()
        self._recent: OrderedDict[Oid, RawObject] = OrderedDict()
        self._recent_bytes = 0
        self._trees: Recent[Tree] = Recent(RECENT_TREES)
        self._reads = 0
        self._repository = open_repository()

    def commit_info(self, oid: Oid) -> CommitInfo:
        return parse_commit(oid, self._read(oid, "commit"))

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return self._trees.get(oid, self._parsed, tree_size)

    def _parsed(self, oid: Oid) -> Tree:
        return parse_tree(self._read(oid, "tree"))

    def blob(self, oid: Oid) -> bytes:
        return self._read(oid, "blob")

    def _read(self, oid: Oid, kind: Kind) -> bytes:
        with self._mutex:
            found = self._recent.get(oid)
            if found is None:
                found = self._read_odb(oid)
        if found[0] != kind:
            raise Corrupt(f"object {oid} is a {found[0]}, not a {kind}")
        return found[1]

    def raw(self, oid: Oid) -> RawObject:
        """The object as it is on disk."""
        with self._mutex:
            return self._read_odb(oid)

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
                    raise Corrupt(f"object {oid} cannot be read from {self._where}: run 'git fsck' there") from error
                self._reopen()
        raise AssertionError("unreachable")

    def _reopen(self) -> None:
        self._repository.free()
        self._repository = self._open()
        self._reads = 0

    def has(self, oid: Oid) -> bool:
        """Whether the object is there."""
        with self._mutex:
            try:
                return oid in self._recent or oid in self._repository.odb
            except (pygit2.GitError, OSError, ValueError):
                return False

    def reopen(self) -> None:
        """Look afresh, and let go of packs that are gone."""
        with self._mutex:
            self._reopen()

    def use(self, run: Callable[[pygit2.Repository], None]) -> None:
        """Run ``run`` on the repository, while nobody else uses it."""
        with self._mutex:
            run(self._repository)

    def keep(self, editor: TreeEditor) -> None:
        """What ``editor`` has made is likely to be read next."""
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

    def close(self) -> None:
        """Let go of all files."""
        with self._mutex:
            self._recent.clear()
            self._repository.free()
