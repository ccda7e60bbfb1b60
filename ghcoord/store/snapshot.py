"""A space pinned to one commit, read lazily."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ghcoord.store.base import TREE_MODE, Entry, Oid, Store


class Snapshot:
    """The files of one commit. Never changes, so it may be kept and shared between threads."""

    def __init__(self, store: Store, space: str, head: Oid | None) -> None:
        self.store = store
        self.space = space
        self.head = head
        self._root: Oid | None = None

    @property
    def root(self) -> Oid | None:
        """The id of the top tree; ``None`` for a space that does not exist."""
        if self.head is not None and self._root is None:
            self._root = self.store.commit_info(self.head).tree
        return self._root

    def entry(self, path: str) -> Entry | None:
        """The entry at ``path``, ``""`` being the top."""
        root = self.root
        if root is None:
            return None
        found = Entry("", root, TREE_MODE)
        for part in path.split("/") if path else ():
            if not found.is_tree:
                return None
            below = self.store.tree(found.oid).get(part)
            if below is None:
                return None
            found = below
        return found

    def read(self, path: str) -> bytes | None:
        """The content at ``path``; ``None`` when there is no such file."""
        found = self.entry(path)
        return self.store.blob(found.oid) if found is not None and found.is_file else None

    def entries(self, path: str) -> Mapping[str, Entry]:
        """What is directly below the directory ``path``; empty when there is none."""
        found = self.entry(path)
        return {} if found is None or not found.is_tree else self.store.tree(found.oid)

    def walk(self, path: str = "") -> Iterator[tuple[str, Entry]]:
        """Every file below ``path`` with its full path, in the order of names."""
        for name, entry in sorted(self.entries(path).items()):
            full = f"{path}/{name}" if path else name
            if entry.is_tree:
                yield from self.walk(full)
            elif entry.is_file:
                yield full, entry


def diff(store: Store, old: Snapshot, new: Snapshot, path: str = "") -> Iterator[tuple[str, Oid | None, Oid | None]]:
    """Files that differ below ``path``: (path, old blob, new blob), reading only the trees that differ."""
    before, after = old.entry(path), new.entry(path)
    yield from _diff(store, path, before, after)


def _diff(
    store: Store, path: str, before: Entry | None, after: Entry | None
) -> Iterator[tuple[str, Oid | None, Oid | None]]:
    if before == after or (before and after and before.oid == after.oid and before.mode == after.mode):
        return
    old_blob = before.oid if before is not None and before.is_file else None
    new_blob = after.oid if after is not None and after.is_file else None
    if old_blob is not None or new_blob is not None:
        yield path, old_blob, new_blob
    below_old = store.tree(before.oid) if before is not None and before.is_tree else {}
    below_new = store.tree(after.oid) if after is not None and after.is_tree else {}
    for name in sorted({*below_old, *below_new}):
        yield from _diff(store, f"{path}/{name}" if path else name, below_old.get(name), below_new.get(name))
