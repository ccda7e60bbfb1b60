"""Objects by id: kept in memory and on disk, and fetched many at once, with those that are likely to be read next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping

from ghcoord.clock import Runtime
from ghcoord.errors import Corrupt, Unavailable
from ghcoord.store.base import ROOT_RECORD, CommitInfo, Entry, Oid, RawObject
from ghcoord.store.github.ahead import Ahead
from ghcoord.store.github.api import Api
from ghcoord.store.github.diskcache import DiskCache
from ghcoord.store.github.kept import Kept
from ghcoord.store.github.queries import Want
from ghcoord.store.github.reading import Found, Reader
from ghcoord.store.heads import LOOK_BACK_FAR
from ghcoord.store.objects import Tree

LOOK_BACK = LOOK_BACK_FAR + 1
"""Commits that come along with one, itself included: those that its trailers are compared with."""

HISTORY = 64
"""Commits that come along where somebody walks through the history."""

HEAD_BACK = 8
"""Commits that come along with a head: those that others made since it was last read."""

MISSED = 1024
"""Objects that were not there whose first miss is remembered."""

HEADS = 30
"""Other heads that come along with one."""

HISTORY_BYTES = 512 * 1024
"""Bytes of messages that are fetched at once, if the others are as long as those that are known."""

SETTLED = 60.0
"""Seconds after a head moved within which an object that a head needs, and that is not there, may still come."""

LISTING = 10_000
"""Entries below a root up to which all trees are listed at once over REST, where the last such listing had no more."""


class Objects:
    """The objects of one repository. Thread-safe; two threads that miss the same object may both ask for it."""

    def __init__(self, api: Api, runtime: Runtime, *, graphql: bool, disk: DiskCache | None) -> None:
        self._api = api
        self.runtime = runtime
        self._kept = Kept(disk)
        self._reader = Reader(api, graphql=graphql)
        self._ahead = Ahead(self._kept.tree_in_memory)
        self._lock = threading.Lock()
        self._at: dict[str, Oid] = {}
        self._moved_at: float | None = None
        self._missed: OrderedDict[Oid, float] = OrderedDict()
        self._message_bytes = 1000.0
        self._listable = True

    @property
    def graphql(self) -> bool:
        """Whether the server answers queries, as far as it is known."""
        return self._reader.graphql

    def do_without_graphql(self) -> None:
        """The server turned out to have none."""
        self._reader.graphql = False

    # -- what is near

    def known_tree(self, oid: Oid) -> Tree | None:
        """The tree ``oid`` if it is in memory or on disk."""
        return self._kept.tree(oid)

    def is_below(self, oid: Oid, head: Oid) -> bool:
        """Whether ``oid`` is among the nearest first parents of ``head``, as far as that is known without asking."""
        chain = [self._kept.commit(head), *self._kept.ancestors(head, HISTORY)]
        return any(info is not None and oid in info.parents[:1] for info in chain)

    # -- what others say

    def add(self, made: Mapping[Oid, RawObject]) -> None:
        """Keep objects that were made here."""
        self._kept.add(made)

    def add_commit(self, info: CommitInfo) -> None:
        """Keep a commit."""
        self._kept.keep_commit(info)

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
        found = self._kept.commit(oid) or self._fetch_commit(oid)
        if found is None:
            raise self._missing(oid, "commit", oid in self._heads())
        return found

    def tree(self, oid: Oid) -> Tree:
        """The tree ``oid``; raises ``Corrupt`` where there is none."""
        found = self._kept.tree(oid)
        if found is None:
            found = self._fetch_tree(oid)
        if found is None:
            raise self._missing(oid, "tree", self._ahead.parent(oid) is not None or oid in self._roots())
        self._ahead.saw(oid)
        return found

    def blob(self, oid: Oid) -> bytes:
        """The blob ``oid``; raises ``Corrupt`` where there is none."""
        found = self._kept.blob(oid)
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
        info = self._kept.commit(head)
        if info is None:
            return dict.fromkeys(self._wants_of_unknown(head))
        back = HEAD_BACK if None in self._kept.ancestors(head, LOOK_BACK - 1) else 0
        root = self._kept.tree(info.tree)
        record = root.get(ROOT_RECORD) if root is not None else None
        if back or root is None or (record is not None and record.is_file and self._kept.blob(record.oid) is None):
            return {Want("commit", head, back=back): None}
        return {}

    def _wants_of_unknown(self, oid: Oid) -> list[Want]:
        """The commit ``oid``; if it is a head, with all other heads that are not known either."""
        heads = self._heads()
        if oid not in heads:
            return [Want("commit", oid, back=self._fitting(HISTORY))]
        unknown = [head for head in heads if head != oid and self._kept.commit(head) is None]
        return [Want("commit", head, back=HEAD_BACK) for head in dict.fromkeys([oid, *unknown[:HEADS]])]

    def _fitting(self, most: int) -> int:
        """At most so many commits, fewer where messages are long."""
        return max(HEAD_BACK, min(most, int(HISTORY_BYTES / (self._message_bytes + 500))))

    def _wants_of_path(self, head: Oid, path: str) -> Iterable[Want]:
        """The trees on the way to ``path`` that are not near, and what is there."""
        parts = path.split("/")
        if not parts[-1]:
            parts.pop()
        info = self._kept.commit(head)
        tree = self._kept.tree(info.tree) if info is not None else None
        for depth, name in enumerate(parts, 1):
            last = depth == len(parts)
            if tree is None:
                yield Want("any" if last else "tree", head, "/".join(parts[:depth]))
                continue
            entry = tree.get(name)
            if entry is None or not (entry.is_tree or (last and entry.is_file)):
                return
            if entry.is_file:
                if self._kept.blob(entry.oid) is None and self._ahead.small(entry.oid):
                    yield Want("any", entry.oid)
                return
            tree = self._kept.tree(entry.oid)
            if tree is None:
                yield Want("tree", entry.oid)

    def _folder_blobs(self, head: Oid, path: str) -> list[Oid]:
        """The files in the folder ``path`` that are not near, as many as fit into one query."""
        info = self._kept.commit(head)
        tree = self._kept.tree(info.tree) if info is not None else None
        for name in path.split("/") if path else ():
            entry = tree.get(name) if tree is not None else None
            tree = self._kept.tree(entry.oid) if entry is not None and entry.is_tree else None
        if tree is None:
            return []
        return self._ahead.fitting(entry.oid for entry in self._far_files(tree))

    def _far_files(self, tree: Tree) -> Iterable[Entry]:
        return (entry for entry in tree.values() if entry.is_file and self._kept.blob(entry.oid) is None)

    # -- fetching what is missed

    def _fetch_commit(self, oid: Oid) -> CommitInfo | None:
        if self._reader.graphql:
            found = self._reader.gather(self._wants_of_unknown(oid))
            self._keep(found)
            if oid in found.commits:
                return found.commits[oid]
            if oid in found.others and found.others[oid] != "commit":
                return None
        elif oid not in self._heads():
            for info in self._reader.history(oid, HISTORY):
                self._kept.keep_commit(info)
            return self._kept.commit(oid)
        alone = self._reader.commit(oid)
        if alone is not None:
            self._kept.keep_commit(alone)
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
        return self._tree_alone(oid)

    def _tree_alone(self, oid: Oid) -> Tree | None:
        tree = self._reader.tree(oid)
        if tree is not None:
            self._kept.keep_tree(oid, tree)
        return tree

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
            self._kept.keep_blob(oid, data)
        return data

    def _tree_and_next(self, oid: Oid) -> list[Want]:
        """The tree ``oid``, and those that a walk would come to next."""
        after = (one for one in self._ahead.trees_after(oid) if self._kept.tree(one) is None)
        return [Want("tree", oid), *(Want("tree", one) for one in after)]

    def _blob_and_next(self, oid: Oid) -> list[Want]:
        """The blob ``oid``, and those that a walk would come to next."""
        others = (one for one in self._ahead.files_after(oid) if one != oid and self._kept.blob(one) is None)
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
        if self._listable and oid in self._roots():
            trees, whole = self._reader.listing(oid)
            self._listable = whole and sum(map(len, trees.values())) <= LISTING
            for one, tree in trees.items():
                self._kept.keep_tree(one, tree)
            if oid in trees:
                return trees[oid]
        return self._tree_alone(oid)

    # -- the rest

    def _heads(self) -> list[Oid]:
        with self._lock:
            return list(self._at.values())

    def _roots(self) -> set[Oid]:
        """The root trees of the present heads that are known."""
        infos = map(self._kept.commit, self._heads())
        return {info.tree for info in infos if info is not None}

    def _missing(self, oid: Oid, kind: str, needed: bool) -> Exception:
        """What to raise for an object that is not there: servers that lag may still show it later."""
        now = self.runtime.monotonic()
        with self._lock:
            since = self._missed.setdefault(oid, now)
            while len(self._missed) > MISSED:
                self._missed.popitem(last=False)
            fresh = self._moved_at is not None and now - self._moved_at < SETTLED and now - since < SETTLED
        if needed and fresh:
            return Unavailable(f"{kind} {oid} is not there yet: {self._api.repo.url} lags behind")
        return Corrupt(f"{kind} {oid} is not in {self._api.repo.url}")

    def _keep(self, found: Found) -> None:
        for info in found.commits.values():
            self._kept.keep_commit(info)
        if found.commits:
            self._message_bytes = sum(len(info.message) for info in found.commits.values()) / len(found.commits)
        for oid, tree in found.trees.items():
            self._kept.keep_tree(oid, tree)
        for oid, data in found.blobs.items():
            self._kept.keep_blob(oid, data)
        self._ahead.note_sizes(found.sizes)
        self._ahead.note_large(oid for oid in found.doubtful if found.others.get(oid) == "blob")
