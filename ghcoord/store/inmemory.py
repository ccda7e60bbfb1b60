"""The in-memory driver: for tests, the simulation and ``memory:`` hubs of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping

from ghcoord.errors import Corrupt
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
from ghcoord.store.objects import TreeEditor, parse_commit, parse_tree
from ghcoord.store.reach import Reach


class MemoryStore:
    """Spaces in a dictionary, with real git object ids.

    ``now`` is the hub's clock.
    """

    def __init__(self, now: Callable[[], float], url: str = "memory:") -> None:
        self.capabilities = Capabilities(clock_margin=0.5)
        self.url = url
        self._now = now
        self._lock = threading.Lock()
        self._objects: dict[Oid, RawObject] = {}
        self._heads: dict[str, Oid] = {}
        self._cut: frozenset[Oid] = frozenset()

    @property
    def budget(self) -> None:
        return None

    def near(self, head: Oid, paths: Collection[str]) -> None:
        """Everything is near."""

    def heads(self) -> dict[str, Oid]:
        with self._lock:
            return dict(self._heads)

    def _raw(self, oid: Oid, kind: Kind) -> bytes:
        found = self._objects.get(oid)
        if found is None or found[0] != kind:
            raise Corrupt(f"no {kind} {oid}")
        return found[1]

    def commit_info(self, oid: Oid) -> CommitInfo:
        return parse_commit(oid, self._raw(oid, "commit"))

    def tree(self, oid: Oid) -> Mapping[str, Entry]:
        return parse_tree(self._raw(oid, "tree"))

    def blob(self, oid: Oid) -> bytes:
        return self._raw(oid, "blob")

    def commit(
        self,
        expected: Mapping[str, Oid | None],
        changes: Mapping[str, ChangeSet],
        op: Operation,
    ) -> dict[str, Oid]:
        check_size(changes, self.capabilities)
        with self._lock:
            compare(expected, self._heads)
            editor = TreeEditor(self.tree)
            made = build_commits(editor, self.commit_info, expected, changes, op)
            self._objects.update(editor.objects)
            self._heads.update(made)
            return made

    def raw(self, oid: Oid) -> RawObject:
        found = self._objects.get(oid)
        if found is None:
            raise Corrupt(f"no object {oid}")
        return found

    def collect(self, cut: Collection[Oid], *, dry_run: bool, tell: Tell) -> Collected:
        with self._lock:
            reach = Reach(self.raw, {*cut, *self._cut})
            kept = {found.oid for found in reach.walk(self._heads.values())}
            before, after = (
                sum(len(data) for oid, (_, data) in self._objects.items() if among is None or oid in among)
                for among in (None, kept)
            )
            commits = sum(kind == "commit" for kind, _ in self._objects.values())
            tell("packing", len(kept))
            if not dry_run:
                self._objects = {oid: made for oid, made in self._objects.items() if oid in kept}
                self._cut = frozenset(reach.ends)
            return Collected(len(reach.commits), commits - len(reach.commits), len(kept), before, after)

    def server_time(self) -> float:
        return self._now()

    def close(self) -> None:
        """Nothing to release."""
