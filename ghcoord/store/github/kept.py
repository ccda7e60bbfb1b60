"""Objects that are near: in memory, and on disk where there is a folder for them."""

from __future__ import annotations

from collections.abc import Mapping

from ghcoord.store.base import CommitInfo, Oid, RawObject
from ghcoord.store.github.diskcache import DiskCache
from ghcoord.store.message import read_actor
from ghcoord.store.objects import Tree, parse_commit, parse_tree
from ghcoord.store.recent import Recent, tree_size

MEMORY = 32 * 1024 * 1024
"""Bytes of trees that are kept in memory, of blobs as well, and a quarter of it of commits."""

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
"""The tree without entries, which servers know without having it."""


class Kept:
    """What was fetched or made lately. Thread-safe; asks nobody."""

    def __init__(self, disk: DiskCache | None) -> None:
        self._disk = disk
        self._commits: Recent[CommitInfo] = Recent(MEMORY // 4)
        self._trees: Recent[Tree] = Recent(MEMORY)
        self._blobs: Recent[bytes] = Recent(MEMORY)
        self._in_memory(EMPTY_TREE, Tree({}))

    def commit(self, oid: Oid) -> CommitInfo | None:
        """The commit ``oid`` if it is near."""
        found = self._commits.peek(oid)
        if found is None and self._disk is not None:
            found = self._disk.commit(oid)
            if found is not None:
                self._commits.put(oid, found, 300 + len(found.message))
        return found

    def tree(self, oid: Oid) -> Tree | None:
        """The tree ``oid`` if it is near."""
        found = self._trees.peek(oid)
        if found is None and self._disk is not None:
            found = self._disk.tree(oid)
            if found is not None:
                self._in_memory(oid, found)
        return found

    def tree_in_memory(self, oid: Oid) -> Tree | None:
        """The tree ``oid`` if looking for it costs nothing."""
        return self._trees.peek(oid)

    def blob(self, oid: Oid) -> bytes | None:
        """The blob ``oid`` if it is near."""
        found = self._blobs.peek(oid)
        if found is None and self._disk is not None:
            found = self._disk.blob(oid)
            if found is not None:
                self._blobs.put(oid, found, 100 + len(found))
        return found

    def keep_commit(self, info: CommitInfo) -> None:
        self._commits.put(info.oid, info, 300 + len(info.message))
        if self._disk is not None:
            self._disk.put_commit(info)

    def keep_tree(self, oid: Oid, tree: Tree) -> None:
        self._in_memory(oid, tree)
        if self._disk is not None:
            self._disk.put_tree(oid, tree)

    def keep_blob(self, oid: Oid, data: bytes) -> None:
        self._blobs.put(oid, data, 100 + len(data))
        if self._disk is not None:
            self._disk.put_blob(oid, data)

    def add(self, made: Mapping[Oid, RawObject]) -> None:
        """Keep objects that were made here."""
        for oid, (kind, data) in made.items():
            if kind == "tree":
                self.keep_tree(oid, parse_tree(data))
            elif kind == "blob":
                self.keep_blob(oid, data)
            else:
                info = parse_commit(oid, data)
                author = read_actor(info.message) or info.author
                self.keep_commit(CommitInfo(oid, info.tree, info.parents, author, info.time, info.message))

    def ancestors(self, head: Oid, count: int) -> list[CommitInfo | None]:
        """The nearest first parents of ``head``, at most ``count``; the last is ``None`` where one is not near."""
        found: list[CommitInfo | None] = []
        info = self.commit(head)
        while info is not None and info.parents and len(found) < count:
            info = self.commit(info.parents[0])
            found.append(info)
        return found

    def _in_memory(self, oid: Oid, tree: Tree) -> None:
        self._trees.put(oid, tree, tree_size(tree))
