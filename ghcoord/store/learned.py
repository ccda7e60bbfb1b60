"""What transactions usually read, so that on a network it comes with one request when a space has moved."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ghcoord.store.base import Oid
from ghcoord.store.snapshot import Snapshot

MOST = 80
"""Paths of a space that are brought together: one query."""


class LearnedReads:
    """Remembers by space the folders that the last transaction looked into, and the files that the last two read.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._heads: dict[str, Oid | None] = {}
        self._folders: dict[str, set[str]] = {}
        self._files: dict[str, tuple[set[str], set[str]]] = {}

    def of(self, snapshot: Snapshot) -> list[str]:
        """Paths worth bringing of ``snapshot``; none when the last transaction saw this very commit."""
        with self._mutex:
            space = snapshot.space
            if snapshot.head is None or self._heads.get(space) == snapshot.head:
                return []
            before, last = self._files.get(space, (set(), set()))
            return sorted({*self._folders.get(space, ()), *(before & last)})[:MOST]

    def learn(self, snapshots: Mapping[str, Snapshot]) -> None:
        """Remember what was read of ``snapshots``."""
        with self._mutex:
            for space, snapshot in snapshots.items():
                self._heads[space] = snapshot.head
                if snapshot.files or snapshot.folders:
                    self._folders[space] = set(snapshot.folders)
                    self._files[space] = (self._files.get(space, (set(), set()))[1], set(snapshot.files))
