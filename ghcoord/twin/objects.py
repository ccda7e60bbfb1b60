"""The git objects of one repository of the twin: reading, and making blobs, trees and commits.

All methods are thread-safe: one lock, shared with the refs, guards the repository.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pygit2
from pygit2.enums import FileMode, ObjectType

Oid = str
"""A git object id, 40 hex digits."""

ObjectKind = Literal["commit", "tree", "blob", "tag"]

_KINDS: dict[int, ObjectKind] = {
    ObjectType.COMMIT: "commit",
    ObjectType.TREE: "tree",
    ObjectType.BLOB: "blob",
    ObjectType.TAG: "tag",
}

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


class Person(NamedTuple):
    """An author or committer: ``time`` in seconds since the epoch, ``offset`` of its zone in minutes."""

    name: str
    email: str
    time: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry of a tree; ``name`` is the last component only. ``mode`` as git has it (0o100644, 0o040000 …)."""

    name: str
    mode: int
    kind: ObjectKind
    oid: Oid


@dataclass(frozen=True, slots=True)
class CommitData:
    """A commit, parsed. ``message`` is exactly what is stored."""

    oid: Oid
    tree: Oid
    parents: tuple[Oid, ...]
    message: str
    author: Person
    committer: Person


class NewEntry(NamedTuple):
    """What a path is to become: an existing object of that mode."""

    mode: int
    oid: Oid


class AbsentPath(Exception):
    """A path that was to be deleted is not there."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class MissingObject(Exception):
    """An object that was named is not there, or is of another type."""

    def __init__(self, oid: str) -> None:
        super().__init__(oid)
        self.oid = oid


class Objects:
    """The object database of one bare repository on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.git = pygit2.init_repository(str(folder), bare=True, initial_head="main")

    # reading

    def kind(self, oid: str) -> ObjectKind | None:
        """The type of an object, ``None`` where there is no such object."""
        if not is_oid(oid):
            return None
        with self.lock:
            found = self.git.get(oid)
            return None if found is None else _KINDS[found.type]

    def blob(self, oid: str) -> bytes | None:
        """A blob's content."""
        with self.lock:
            found = self.git.get(oid) if is_oid(oid) else None
            return found.data if isinstance(found, pygit2.Blob) else None

    def blob_size(self, oid: str) -> int:
        """A blob's size in bytes, 0 where there is none."""
        with self.lock:
            found = self.git.get(oid) if is_oid(oid) else None
            return found.size if isinstance(found, pygit2.Blob) else 0

    def tree(self, oid: str) -> tuple[TreeEntry, ...] | None:
        """A tree's entries in git's order."""
        with self.lock:
            found = self._tree(oid)
            return None if found is None else tuple(_entry(each) for each in found)

    def commit(self, oid: str) -> CommitData | None:
        """A commit."""
        with self.lock:
            found = self.git.get(oid) if is_oid(oid) else None
            return _commit(found) if isinstance(found, pygit2.Commit) else None

    def at_path(self, tree: Oid, path: str) -> TreeEntry | None:
        """The entry at a path below a tree; the empty path is the tree itself."""
        parts = [part for part in path.split("/") if part]
        with self.lock:
            entry = TreeEntry("", FileMode.TREE, "tree", tree)
            for part in parts:
                folder = self._tree(entry.oid) if entry.kind == "tree" else None
                if folder is None or part not in folder:
                    return None
                entry = _entry(folder[part])
            return entry

    def walk(self, tree: Oid, limit: int) -> tuple[list[tuple[str, TreeEntry]], bool]:
        """All entries below a tree with their full paths, folders before their content; and whether there were more."""
        found: list[tuple[str, TreeEntry]] = []
        for each in self._walk(tree, ""):
            if len(found) >= limit:
                return found, True
            found.append(each)
        return found, False

    def history(self, oid: Oid) -> Iterator[CommitData]:
        """A commit and its ancestors, each once, children before parents in the order of their dates."""
        seen = {oid}
        queue = [oid]
        while queue:
            commits = [found for each in queue if (found := self.commit(each)) is not None]
            if not commits:
                return
            newest = max(commits, key=lambda one: one.committer.time)
            queue.remove(newest.oid)
            yield newest
            fresh = [parent for parent in newest.parents if parent not in seen]
            seen.update(fresh)
            queue = fresh + queue

    def is_ancestor(self, older: Oid, newer: Oid) -> bool:
        """Whether ``newer`` descends from ``older`` (or is it)."""
        with self.lock:
            if older == newer:
                return True
            found = self.git.get(newer)
            if isinstance(found, pygit2.Commit) and older in (str(parent) for parent in found.parent_ids):
                return True
            return self.kind(older) == "commit" and self.git.descendant_of(newer, older)

    # making

    def create_blob(self, content: bytes) -> Oid:
        """Store a blob."""
        with self.lock:
            return str(self.git.create_blob(content))

    def edit_tree(
        self, base: Oid | None, changes: Mapping[str, NewEntry | None], *, absent_is_error: bool = True
    ) -> Oid:
        """A tree like ``base`` (``None``: the empty one) with the given full paths set, or deleted where ``None``.

        Folders that become empty go. Raises :class:`AbsentPath` for a deletion
        of what is not there (unless told not to) and :class:`MissingObject`.
        """
        with self.lock:
            if base is not None and self._tree(base) is None:
                raise MissingObject(base)
            for entry in changes.values():
                if entry is not None and entry.mode != FileMode.COMMIT and self.kind(entry.oid) is None:
                    raise MissingObject(entry.oid)
            made = self._edit(base, changes, "", absent_is_error)
            return made or str(self.git.TreeBuilder().write())

    def create_commit(
        self, tree: Oid, parents: list[Oid], message: str, author: Person, committer: Person | None = None
    ) -> Oid:
        """Store a commit that no ref names yet. Raises :class:`MissingObject`."""
        with self.lock:
            if self.kind(tree) != "tree":
                raise MissingObject(tree)
            for parent in parents:
                if self.kind(parent) != "commit":
                    raise MissingObject(parent)
            made = self.git.create_commit(
                None, _signature(author), _signature(committer or author), message, tree, list(parents)
            )
            return str(made)

    def _tree(self, oid: str) -> pygit2.Tree | None:
        found = self.git.get(oid) if is_oid(oid) else None
        if found is None and oid == EMPTY_TREE:
            found = self.git.get(self.git.TreeBuilder().write())
        return found if isinstance(found, pygit2.Tree) else None

    def _walk(self, tree: Oid, prefix: str) -> Iterator[tuple[str, TreeEntry]]:
        for entry in self.tree(tree) or ():
            path = prefix + entry.name
            yield path, entry
            if entry.kind == "tree":
                yield from self._walk(entry.oid, path + "/")

    def _edit(
        self, base: Oid | None, changes: Mapping[str, NewEntry | None], prefix: str, absent_is_error: bool
    ) -> Oid | None:
        """The new tree, ``None`` if it is empty."""
        tree = self._tree(base) if base is not None else None
        builder = self.git.TreeBuilder(tree) if tree is not None else self.git.TreeBuilder()
        below: dict[str, dict[str, NewEntry | None]] = {}
        for path, entry in changes.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = entry
            elif entry is not None:
                builder.insert(name, entry.oid, FileMode(entry.mode))
            elif tree is not None and name in tree:
                builder.remove(name)
            elif absent_is_error:
                raise AbsentPath(prefix + name)
        for name, inner in below.items():
            old = tree[name] if tree is not None and name in tree else None
            folder = str(old.id) if isinstance(old, pygit2.Tree) else None
            made = self._edit(folder, inner, f"{prefix}{name}/", absent_is_error)
            if made is not None:
                builder.insert(name, made, FileMode.TREE)
            elif folder is not None:
                builder.remove(name)
        return str(builder.write()) if len(builder) else None


def is_oid(text: str) -> bool:
    """Whether it is a whole object id."""
    return len(text) == 40 and all(each in "0123456789abcdef" for each in text)


def _entry(found: pygit2.Object) -> TreeEntry:
    mode = int(found.filemode)
    kind: ObjectKind = "tree" if mode == FileMode.TREE else "commit" if mode == FileMode.COMMIT else "blob"
    return TreeEntry(str(found.name), mode, kind, str(found.id))


def _person(found: pygit2.Signature) -> Person:
    return Person(found.name, found.email, found.time, found.offset)


def _signature(person: Person) -> pygit2.Signature:
    return pygit2.Signature(person.name or "-", person.email or "-", person.time, person.offset)


def _commit(found: pygit2.Commit) -> CommitData:
    return CommitData(
        oid=str(found.id),
        tree=str(found.tree_id),
        parents=tuple(str(each) for each in found.parent_ids),
        message=found.message,
        author=_person(found.author),
        committer=_person(found.committer),
    )
