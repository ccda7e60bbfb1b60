"""A transaction's view of the hub: snapshots with the changes made so far laid over them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ghcoord.errors import Unsupported
from ghcoord.store.message import EventLine
from ghcoord.store.objects import object_id
from ghcoord.store.snapshot import MAX_LEVELS, Snapshot

MAX_EVENT = 2000
"""Longest event line kept, in characters: a commit message is read by people and by every walk."""


class Overlay:
    """Changed files by path, with the names that changed below each directory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | None] = {}
        self._names: dict[str, set[str]] = {}

    def put(self, path: str, content: bytes | None) -> None:
        if path not in self.files:
            self._name(path)
        self.files[path] = content

    def _name(self, path: str) -> None:
        """Note ``path`` in its directory, and that in its own, as far as they are not known."""
        folder, _, name = path.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = set()
            if folder:
                self._name(folder)
        names.add(name)

    def take(self, later: Overlay) -> None:
        """Lay the changes of ``later``, which is not used any more, over these."""
        if not self.files:
            self.files, self._names = later.files, later._names
            return
        for path, content in later.files.items():
            self.put(path, content)

    def names(self, path: str) -> set[str]:
        """Names directly below ``path`` that hold a change at any depth."""
        return self._names.get(path, set())


class SpaceView:
    """One space as a transaction sees it: snapshot, the batch's changes, its own changes."""

    def __init__(self, snapshot: Snapshot, batch: Overlay) -> None:
        self.snapshot = snapshot
        self._batch = batch
        self.own = Overlay()
        self.events: list[EventLine] = []

    def read(self, path: str) -> bytes | None:
        for overlay in (self.own, self._batch):
            if path in overlay.files:
                return overlay.files[path]
        return self.snapshot.read(path)

    def is_file(self, path: str) -> bool:
        for overlay in (self.own, self._batch):
            if path in overlay.files:
                return overlay.files[path] is not None
        found = self.snapshot.entry(path)
        return found is not None and found.is_file

    def write(self, path: str, content: bytes | None) -> None:
        if not self._holds(path, content):
            self.own.put(path, content)

    def _holds(self, path: str, content: bytes | None) -> bool:
        """Whether ``content`` is what is at ``path`` already. Reads no file: the id tells."""
        for overlay in (self.own, self._batch):
            if path in overlay.files:
                return overlay.files[path] == content
        found = self.snapshot.entry(path)
        if found is None or not found.is_file:
            return content is None
        return content is not None and found.oid == object_id("blob", content)

    def changed(self) -> set[str]:
        """Paths whose content differs from what the batch had before."""
        before = SpaceView(self.snapshot, self._batch)
        return {path for path, content in self.own.files.items() if before.read(path) != content}

    def names(self, path: str) -> list[str]:
        """Names directly below ``path``, sorted.

        A directory that this batch emptied may still be named; it lists as empty.
        """
        found = set(self.snapshot.entries(path))
        for overlay in (self._batch, self.own):
            for name in overlay.names(path):
                content = overlay.files.get(f"{path}/{name}" if path else name, b"")
                if content is None:
                    found.discard(name)
                else:
                    found.add(name)
        return sorted(found)

    def keep(self) -> None:
        """Merge this transaction's changes into the batch's."""
        self._batch.take(self.own)


class Tx:
    """What a transaction function gets: read, write, list, and say what happened.

    The function runs again on newer state whenever somebody else was first, so
    it must have no effect besides these calls.  ``now`` is the hub's time in
    seconds; ``revision`` the number this transaction is applied under, which is
    the fencing token of whatever it grants.
    """

    def __init__(self, views: Mapping[str, SpaceView], *, now: float, revision: int) -> None:
        self._views = views
        self.now = now
        self.revision = revision

    @property
    def spaces(self) -> list[str]:
        return sorted(self._views)

    def _view(self, space: str) -> SpaceView:
        view = self._views.get(space)
        if view is None:
            raise Unsupported(f"the transaction was not opened over the space {space!r}")
        return view

    def exists(self, space: str) -> bool:
        """Whether the space existed before this batch."""
        return self._view(space).snapshot.head is not None

    def read(self, space: str, path: str) -> bytes | None:
        """The content at ``path`` as this transaction sees it."""
        return self._view(space).read(path)

    def near(self, space: str, paths: Collection[str]) -> None:
        """Have what lies at ``paths`` fetched together, where reading it one by one would cost requests."""
        self._view(space).snapshot.near(paths)

    def is_far(self, space: str) -> bool:
        """Whether reading costs requests."""
        return self._view(space).snapshot.store.capabilities.remote

    def write(self, space: str, path: str, content: bytes) -> None:
        """Put ``content`` at ``path``."""
        self._view(space).write(path, content)

    def delete(self, space: str, path: str) -> None:
        """Remove the file at ``path``, if there is one."""
        self._view(space).write(path, None)

    def changed(self, space: str) -> set[str]:
        """Paths whose content is another by now than before this transaction."""
        return self._view(space).changed()

    def names(self, space: str, path: str) -> list[str]:
        """Names directly below the directory ``path``, sorted."""
        return self._view(space).names(path)

    def walk(self, space: str, path: str) -> Iterator[str]:
        """Paths of every file below ``path``, in order, at most ``MAX_LEVELS`` deep."""
        view = self._view(space)
        todo = [(path, 0)]
        while todo:
            full, level = todo.pop()
            if level and view.is_file(full):
                yield full
            elif level < MAX_LEVELS:
                names = reversed(view.names(full))
                todo += [(f"{full}/{name}" if full else name, level + 1) for name in names]

    def event(self, space: str, kind: str, **fields: Any) -> None:
        """Record what happened, as one JSON line of the commit's message."""
        known = {key: value for key, value in fields.items() if value is not None}
        line = json.dumps({"at": round(self.now, 3), "kind": kind, **known}, ensure_ascii=True)
        if len(line) > MAX_EVENT:
            ids = {
                k: v for k, v in known.items() if isinstance(v, int | float) or (isinstance(v, str) and len(v) < 200)
            }
            line = json.dumps({"at": round(self.now, 3), "kind": kind, **ids, "cut": True}, ensure_ascii=True)
        self._view(space).events.append((kind, line))
