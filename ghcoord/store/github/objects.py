"""Objects by id: kept in memory and on disk, and fetched many at once, with those that are likely to be read next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from ghcoord.clock import Runtime
from ghcoord.errors import Corrupt, Unavailable
from ghcoord.store.base import ROOT_RECORD, CommitInfo, Entry, Oid, RawObject
from ghcoord.store.github.ahead import Ahead
from ghcoord.store.github.api import Api
from ghcoord.store.github.diskcache import DiskCache
from ghcoord.store.github.queries import Want
from ghcoord.store.github.reading import MOST, Found, Reader
from ghcoord.store.message import read_actor
from ghcoord.store.objects import Tree, parse_commit, parse_tree
from ghcoord.store.recent import Recent, tree_size

MEMORY = 32 * 1024 * 1024
"""Bytes of trees that are kept in memory, of blobs as well, and a quarter of it of commits."""

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
"""The tree without entries, which servers know without having it."""

LOOK_BACK = 65
"""Commits that come along with one: what :data:`ghcoord.store.heads.LOOK_BACK` looks at."""

MOVED_BACK = 8
"""Commits that come along with one whose space was known before: those of others since."""

DEEP = 1024
"""Commits whose history is known to be near."""

HISTORY_BYTES = 512 * 1024
"""Bytes of messages that are fetched at once, if the others are as long as those that are known."""

SETTLED = 60.0
"""Seconds after a head moved within which an object that a head needs, and that is not there, may still come."""

LISTING = 2000
"""Trees below a root up to which all of them are listed at once over REST."""

T = TypeVar("T")


class Objects:
    """The objects of one repository. Thread-safe; two threads that miss the same object may both ask for it."""

    def __init__(self, api: Api, runtime: Runtime, *, graphql: bool, disk: DiskCache | None) -> None:
        self._api = api
        self.runtime = runtime
        self._disk = disk
        self._reader = Reader(api, graphql=graphql)
        self._commits: Recent[CommitInfo] = Recent(MEMORY // 4)
        self._trees: Recent[Tree] = Recent(MEMORY)
        self._blobs: Recent[bytes] = Recent(MEMORY)
        self._ahead = Ahead(lambda oid: _peek(self._trees, oid))
        self._lock = threading.Lock()
        self._at: dict[str, Oid] = {}
        self._moved_at: float | None = None
        self._deep: OrderedDict[Oid, None] = OrderedDict()
        self._listable = True
        self._keep_tree(EMPTY_TREE, Tree({}), disk=False)

    @property
    def graphql(self) -> bool:
        """Whether the server answers queries, as far as it is known."""
        return self._reader.graphql

    # -- what is near

    def known_commit(self, oid: Oid) -> CommitInfo | None:
        """The commit ``oid`` if it is in memory or on disk."""
        found = _peek(self._commits, oid)
        if found is None and self._disk is not None:
            found = self._disk.commit(oid)
            if found is not None:
                self._keep_commit(found, disk=False)
        return found

    def known_tree(self, oid: Oid) -> Tree | None:
        """The tree ``oid`` if it is in memory or on disk."""
        found = _peek(self._trees, oid)
        if found is None and self._disk is not None:
            found = self._disk.tree(oid)
            if found is not None:
                self._keep_tree(oid, found, disk=False)
        return found

    def known_blob(self, oid: Oid) -> bytes | None:
        """The blob ``oid`` if it is in memory or on disk."""
        found = _peek(self._blobs, oid)
        if found is None and self._disk is not None:
            found = self._disk.blob(oid)
            if found is not None:
                self._keep_blob(oid, found, disk=False)
        return found

    def ancestors(self, head: Oid, count: int) -> set[Oid]:
        """The nearest first parents of ``head``, at most ``count``, as far as they are known without asking."""
        found: set[Oid] = set()
        info = _peek(self._commits, head)
        while info is not None and info.parents and len(found) < count:
            found.add(info.parents[0])
            info = _peek(self._commits, info.parents[0])
        return found

    # -- what others say

    def add(self, made: Mapping[Oid, RawObject]) -> None:
        """Keep objects that were made here."""
        for oid, (kind, data) in made.items():
            if kind == "tree":
                self._keep_tree(oid, parse_tree(data))
            elif kind == "blob":
                self._keep_blob(oid, data)
            else:
                info = parse_commit(oid, data)
                author = read_actor(info.message) or info.author
                self.add_commit(CommitInfo(oid, info.tree, info.parents, author, info.time, info.message))

    def add_commit(self, info: CommitInfo) -> None:
        """Keep a commit."""
        self._keep_commit(info)

    def take(self, node: object) -> None:
        """Keep what a node of a GraphQL answer shows."""
        found = Found()
        found.take(node)
        self._keep(found)

    def follow(self, space: str, head: Oid) -> None:
        """``space`` is at ``head`` now."""
        with self._lock:
            if self._at.get(space, head) != head:
                self._moved_at = self.runtime.monotonic()
            self._at[space] = head

    # -- reading

    def commit_info(self, oid: Oid) -> CommitInfo:
        """The commit ``oid``; raises ``Corrupt`` where there is none."""
        found = self.known_commit(oid)
        if found is None:
            found = self._fetch_commit(oid)
        if found is None:
            raise self._missing(oid, "commit", oid in self._at.values())
        return found

    def tree(self, oid: Oid) -> Tree:
        """The tree ``oid``; raises ``Corrupt`` where there is none."""
        found = self.known_tree(oid)
        if found is None:
            found = self._fetch_tree(oid)
        if found is None:
            raise self._missing(oid, "tree", self._ahead.parent(oid) is not None)
        self._ahead.saw(oid)
        return found

    def blob(self, oid: Oid) -> bytes:
        """The blob ``oid``; raises ``Corrupt`` where there is none."""
        found = self.known_blob(oid)
        if found is None:
            found = self._fetch_blob(oid)
        if found is None:
            raise self._missing(oid, "blob", self._ahead.parent(oid) is not None)
        return found

    def near(self, head: Oid, paths: Collection[str]) -> None:
        """See :meth:`ghcoord.store.base.Store.near`. Makes no request for what is near already."""
        if not self._reader.graphql:
            self._near_by_rest(head, paths)
            return
        wants = self._wants_of_commit(head)
        for path in paths:
            wants.update(dict.fromkeys(self._wants_of_path(head, path)))
        if len(wants) == 1 and (only := next(iter(wants))).path is None and only.shape != "commit":
            # All on the way is near: somebody walks through, or comes back to what has changed.
            ahead = self._tree_and_next if only.shape == "tree" else self._blob_and_next
            wants.update(dict.fromkeys(ahead(only.oid)))
        if wants:
            self._keep(self._reader.gather(list(wants)))
            if not self._reader.graphql:
                self._near_by_rest(head, paths)
                return
        inside = dict.fromkeys(
            oid for path in paths if path.endswith("/") for oid in self._folder_blobs(head, path[:-1])
        )
        if inside:
            self._keep(self._reader.gather([Want("any", oid) for oid in inside]))

    # -- what to ask for

    def _wants_of_commit(self, head: Oid) -> dict[Want, None]:
        """The commit, its root tree and record, and its history as far as it is looked at."""
        info = self.known_commit(head)
        if info is None:
            return {Want("commit", head, back=self._back()): None}
        back = self._history_missing(info)
        root = self.known_tree(info.tree)
        record = root.get(ROOT_RECORD) if root is not None else None
        if back or root is None or (record is not None and record.is_file and self.known_blob(record.oid) is None):
            return {Want("commit", head, back=back): None}
        return {}

    def _back(self) -> int:
        """How much history comes with a commit of which nothing is known."""
        return LOOK_BACK if self._moved_at is None else MOVED_BACK

    def _history_missing(self, info: CommitInfo) -> int:
        """How many commits to fetch with ``info`` so that all that are looked at are known; 0 when they are."""
        with self._lock:
            if info.oid in self._deep:
                return 0
        length, known = len(info.message), 1
        now: CommitInfo | None = info
        while now is not None and now.parents and known < LOOK_BACK:
            now = self.known_commit(now.parents[0])
            known += now is not None
            length += len(now.message) if now is not None else 0
        if now is None:
            return max(known + 4, min(LOOK_BACK, HISTORY_BYTES * known // (length + 500)))
        with self._lock:
            self._deep[info.oid] = None
            while len(self._deep) > DEEP:
                self._deep.popitem(last=False)
        return 0

    def _wants_of_path(self, head: Oid, path: str) -> Iterable[Want]:
        """The trees on the way to ``path`` that are not near, and what is there."""
        parts = path.split("/")
        if not parts[-1]:
            parts.pop()
        info = self.known_commit(head)
        tree = self.known_tree(info.tree) if info is not None else None
        for depth, name in enumerate(parts, 1):
            last = depth == len(parts)
            if tree is None:
                yield Want("any" if last else "tree", head, "/".join(parts[:depth]))
                continue
            entry = tree.get(name)
            if entry is None or not (entry.is_tree or (last and entry.is_file)):
                return
            if entry.is_file:
                if self.known_blob(entry.oid) is None and self._ahead.small(entry.oid):
                    yield Want("any", entry.oid)
                return
            tree = self.known_tree(entry.oid)
            if tree is None:
                yield Want("tree", entry.oid)

    def _folder_blobs(self, head: Oid, path: str) -> list[Oid]:
        """The files in the folder ``path`` that are not near, as many as fit into one query."""
        info = self.known_commit(head)
        tree = self.known_tree(info.tree) if info is not None else None
        for name in path.split("/") if path else ():
            entry = tree.get(name) if tree is not None else None
            tree = self.known_tree(entry.oid) if entry is not None and entry.is_tree else None
        if tree is None:
            return []
        return self._ahead.fitting(entry.oid for entry in self._far_files(tree))

    def _far_files(self, tree: Tree) -> Iterable[Entry]:
        return (entry for entry in tree.values() if entry.is_file and self.known_blob(entry.oid) is None)

    # -- fetching what is missed

    def _fetch_commit(self, oid: Oid) -> CommitInfo | None:
        with self._lock:
            heads = [head for head in self._at.values() if head != oid] if oid in self._at.values() else []
        if self._reader.graphql:
            wants = [Want("commit", oid, back=self._back())]
            wants += [Want("commit", head) for head in heads[: MOST - 1] if self.known_commit(head) is None]
            found = self._reader.gather(wants)
            self._keep(found)
            if oid in found.commits:
                return found.commits[oid]
            if oid in found.others and found.others[oid] != "commit":
                return None
        elif oid not in self._at.values():
            for info in self._reader.history(oid, LOOK_BACK):
                self._keep_commit(info)
            return _peek(self._commits, oid)
        alone = self._reader.commit(oid)
        if alone is not None:
            self._keep_commit(alone)
        return alone

    def _fetch_tree(self, oid: Oid) -> Tree | None:
        if not self._reader.graphql:
            return self._tree_by_rest(oid)
        found = self._reader.gather(self._tree_and_next(oid))
        self._keep(found)
        self._ahead.note_trees(found.trees.values())
        if oid in found.trees:
            return found.trees[oid]
        if oid in found.others and found.others[oid] != "tree":
            return None
        return self._kept_tree(oid, self._reader.tree(oid))

    def _fetch_blob(self, oid: Oid) -> bytes | None:
        if self._reader.graphql and self._ahead.small(oid):
            found = self._reader.gather(self._blob_and_next(oid))
            self._keep(found)
            if oid in found.blobs:
                return found.blobs[oid]
            if oid in found.others and found.others[oid] != "blob":
                return None
        data = self._reader.blob(oid)
        if data is not None:
            self._keep_blob(oid, data)
        return data

    def _tree_and_next(self, oid: Oid) -> list[Want]:
        """The tree ``oid``, and those that a walk would come to next."""
        after = (one for one in self._ahead.trees_after(oid) if self.known_tree(one) is None)
        return [
            Want("deep" if self._ahead.depth(oid) in (1, 2) else "tree", oid),
            *(Want("tree", one) for one in after),
        ]

    def _blob_and_next(self, oid: Oid) -> list[Want]:
        """The blob ``oid``, and those that a walk would come to next."""
        others = (one for one in self._ahead.files_after(oid) if one != oid and self.known_blob(one) is None)
        return [Want("any", oid), *(Want("any", one) for one in self._ahead.fitting(others, besides=oid))]

    # -- without GraphQL

    def _near_by_rest(self, head: Oid, paths: Collection[str]) -> None:
        try:
            root = self.commit_info(head).tree
            for path in (ROOT_RECORD, *paths):
                tree: Tree | None = self.tree(root)
                for name in path.rstrip("/").split("/"):
                    entry = tree.get(name) if tree is not None else None
                    tree = self.tree(entry.oid) if entry is not None and entry.is_tree else None
                    if entry is not None and entry.is_file:
                        self.blob(entry.oid)
        except Corrupt:
            return  # whoever reads it is told

    def _tree_by_rest(self, oid: Oid) -> Tree | None:
        with self._lock:
            roots = [_peek(self._commits, head) for head in self._at.values()]
        if self._listable and any(info is not None and info.tree == oid for info in roots):
            trees, sizes, whole = self._reader.listing(oid)
            self._listable = whole and len(trees) <= LISTING and len(sizes) <= LISTING * 4
            for one, tree in trees.items():
                self._keep_tree(one, tree)
            self._ahead.note_sizes(sizes)
            if oid in trees:
                return trees[oid]
        return self._kept_tree(oid, self._reader.tree(oid))

    # -- keeping

    def _missing(self, oid: Oid, kind: str, needed: bool) -> Exception:
        """What to raise for an object that is not there: servers that lag may still show it later."""
        fresh = self._moved_at is not None and self.runtime.monotonic() - self._moved_at < SETTLED
        if needed and fresh:
            return Unavailable(f"{kind} {oid} is not there yet: {self._api.repo.url} lags behind")
        return Corrupt(f"{kind} {oid} is not in {self._api.repo.url}")

    def _keep(self, found: Found) -> None:
        for info in found.commits.values():
            self._keep_commit(info)
        for oid, tree in found.trees.items():
            self._keep_tree(oid, tree)
        for oid, data in found.blobs.items():
            self._keep_blob(oid, data)
        self._ahead.note_sizes(found.sizes)
        self._ahead.note_large(oid for oid in found.doubtful if found.others.get(oid) == "blob")

    def _keep_commit(self, info: CommitInfo, *, disk: bool = True) -> None:
        self._commits.put(info.oid, info, 300 + len(info.message))
        self._ahead.note_root(info.tree)
        if disk and self._disk is not None:
            self._disk.put_commit(info)

    def _kept_tree(self, oid: Oid, tree: Tree | None) -> Tree | None:
        if tree is not None:
            self._keep_tree(oid, tree)
        return tree

    def _keep_tree(self, oid: Oid, tree: Tree, *, disk: bool = True) -> None:
        self._trees.put(oid, tree, tree_size(tree))
        if disk and self._disk is not None:
            self._disk.put_tree(oid, tree)

    def _keep_blob(self, oid: Oid, data: bytes, *, disk: bool = True) -> None:
        self._blobs.put(oid, data, 100 + len(data))
        if disk and self._disk is not None:
            self._disk.put_blob(oid, data)


class _Absent(Exception):
    """Nothing is kept under that id."""


def _peek(kept: Recent[T], oid: Oid) -> T | None:
    """What is in memory under ``oid``."""
    try:
        return kept.get(oid, _absent, _no_size)
    except _Absent:
        return None


def _absent(oid: Oid) -> T:  # type: ignore[type-var]
    raise _Absent


def _no_size(value: object) -> int:
    return 0
