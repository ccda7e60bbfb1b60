"""A space pinned to one commit, read lazily."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from ghcoord.store.base import TREE_MODE, Entry, Oid, Store

MAX_LEVELS = 64
"""Directory levels that are looked into: people push any depth, and nothing of ghcoord's lies deeper than 8."""

MAX_FOLDERS = 1000
"""Directories that a snapshot keeps at hand."""


class Snapshot:
    """The files of one commit. Never changes, so it may be kept and shared between threads."""

    def __init__(self, store: Store, space: str, head: Oid | None) -> None:
        self.store = store
        self.space = space
        self.head = head
        self._root: Oid | None = None
        self._far = store.capabilities.far_objects
        self._folders: dict[str, Mapping[str, Entry]] = {}
        self._files: set[str] = set()

    @property
    def folders(self) -> Collection[str]:
        """The directories that were looked into lately."""
        return self._folders.keys()

    @property
    def files(self) -> Collection[str]:
        """The files that were read, on a store where reading costs requests."""
        return self._files

    def near(self, paths: Collection[str]) -> None:
        """Have ``paths`` fetched together; see :meth:`ghcoord.store.base.Store.near`."""
        if self._far and self.head is not None:
            self.store.near(self.head, paths)

    @property
    def root(self) -> Oid | None:
        """The id of the top tree; ``None`` for a space that does not exist."""
        if self.head is not None and self._root is None:
            self._root = self.store.commit_info(self.head).tree
        return self._root

    def entry(self, path: str) -> Entry | None:
        """The entry at ``path``, ``""`` being the top."""
        if path:
            folder, _, name = path.rpartition("/")
            return self._folder(folder).get(name)
        root = self.root
        return None if root is None else Entry("", root, TREE_MODE)

    def _folder(self, path: str) -> Mapping[str, Entry]:
        """The entries of the directory ``path``, kept: what is read lies close to what was."""
        found = self._folders.get(path)
        if found is None:
            if self._far and path and path.rpartition("/")[0] not in self._folders:
                self.near([path])  # all the levels above it come along
            top = self.entry(path)
            found = self.store.tree(top.oid) if top is not None and top.is_tree else {}
            if len(self._folders) >= MAX_FOLDERS:
                self._folders.clear()
            self._folders[path] = found
        return found

    def read(self, path: str) -> bytes | None:
        """The content at ``path``; ``None`` when there is no such file."""
        if self._far:
            self._files.add(path)
            if path.rpartition("/")[0] not in self._folders:
                self.near([path])
        found = self.entry(path)
        return self.store.blob(found.oid) if found is not None and found.is_file else None

    def entries(self, path: str) -> Mapping[str, Entry]:
        """What is directly below the directory ``path``; empty when there is none."""
        return self._folder(path)

    def walk(self, path: str = "", *, reverse: bool = False) -> Iterator[tuple[str, Entry]]:
        """Every file below ``path`` with its full path, in the order of names, at most ``MAX_LEVELS`` deep."""
        top = self.entry(path)
        todo = [(path, top, 0)] if top is not None and top.is_tree else []
        while todo:
            full, entry, level = todo.pop()
            if entry.is_file:
                yield full, entry
            elif entry.is_tree and level < MAX_LEVELS:
                below = self.store.tree(entry.oid)
                todo += [(_join(full, name), below[name], level + 1) for name in sorted(below, reverse=not reverse)]


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _nothing(path: str) -> None:
    """Nobody asked to be told."""


def diff(
    store: Store,
    old: Snapshot,
    new: Snapshot,
    path: str = "",
    *,
    levels: int = MAX_LEVELS,
    too_deep: Callable[[str], None] = _nothing,
) -> Iterator[tuple[str, Oid | None, Oid | None]]:
    """Files that differ below ``path``: (path, old blob, new blob), reading only the trees that differ.

    Directories more than ``levels`` below it are not looked into; ``too_deep`` is told their paths.
    """
    todo = [(path, old.entry(path), new.entry(path), 0)]
    while todo:
        full, before, after, level = todo.pop()
        if before == after or (before and after and before.oid == after.oid and before.mode == after.mode):
            continue
        old_blob = before.oid if before is not None and before.is_file else None
        new_blob = after.oid if after is not None and after.is_file else None
        if old_blob is not None or new_blob is not None:
            yield full, old_blob, new_blob
        below_old = before.oid if before is not None and before.is_tree else None
        below_new = after.oid if after is not None and after.is_tree else None
        if below_old is None and below_new is None:
            continue
        if level >= levels:
            too_deep(full)
            continue
        one = store.tree(below_old) if below_old is not None else {}
        other = store.tree(below_new) if below_new is not None else {}
        for name in sorted({*one, *other}, reverse=True):
            todo.append((_join(full, name), one.get(name), other.get(name), level + 1))
