"""What is likely to be read next: guessed from what was read before, and where."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import dropwhile, islice
from typing import TypeVar

from ghcoord.store.base import Entry, Oid
from ghcoord.store.objects import Tree

T = TypeVar("T")

SEEN = 512
"""Trees read last, in which an object that is missed is looked for."""

MOST = 20_000
"""Sizes of blobs that are remembered."""

AHEAD_BYTES = 512 * 1024
"""Bytes of blobs that are fetched at once."""

AHEAD_BLOBS = 100
"""Blobs that are fetched at once."""

LEAST_TREES, MOST_TREES = 4, 64
"""Trees that are fetched along with one, depending on how large the last ones were."""

LOOKED_AT = 1000
"""Objects behind one that is missed that are looked at."""

LEVELS = 3
"""Levels above an object within which the next ones are looked for: those of a fan-out."""

ENTRY_BYTES = 130
"""About what an entry of a tree takes in an answer."""

GUESS = 16 * 1024
"""Bytes that a blob of unknown size is taken to have."""

LARGEST = 400 * 1024
"""Bytes of a blob that a query is asked for: GitHub cuts text off at 512 KB."""


class Ahead:
    """Remembers what was read. Thread-safe; ``tree`` gives trees that are in memory."""

    def __init__(self, tree: Callable[[Oid], Tree | None]) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._seen: OrderedDict[Oid, None] = OrderedDict()
        self._tree_bytes = 200.0 + ENTRY_BYTES * 256
        self._sizes: OrderedDict[Oid, int] = OrderedDict()

    def saw(self, oid: Oid) -> None:
        """The tree ``oid`` was read."""
        with self._lock:
            _remember(self._seen, oid, None, SEEN)

    def note_sizes(self, sizes: Mapping[Oid, int]) -> None:
        """So many bytes have these blobs."""
        with self._lock:
            for oid, size in sizes.items():
                _remember(self._sizes, oid, size, MOST)

    def note_large(self, oids: Iterable[Oid]) -> None:
        """A query did not bring the whole of these blobs: they are binary, or large."""
        self.note_sizes(dict.fromkeys(oids, LARGEST + 1))

    # -- where something lies

    def parent(self, oid: Oid) -> Oid | None:
        """A tree read lately in which ``oid`` is; the latest of several."""
        raw = bytes.fromhex(oid)
        with self._lock:
            seen = list(self._seen)
        for one in reversed(seen):
            tree = self._tree(one)
            if tree is not None and any(line.endswith(raw) for line in tree.lines.values()):
                return one
        return None

    # -- what comes next

    def small(self, oid: Oid) -> bool:
        """Whether the blob ``oid`` may be asked for in a query."""
        return self._sizes.get(oid, 0) <= LARGEST

    def files_after(self, oid: Oid) -> Iterator[Oid]:
        """The files that a walk comes to after ``oid``, as far as trees are near, then those before it in its tree."""
        yield from islice(self._after(oid, trees=False), LOOKED_AT)
        parent = self.parent(oid)
        tree = self._tree(parent) if parent is not None else None
        for entry in tree.values() if tree is not None else ():
            if entry.is_file:
                yield entry.oid

    def trees_after(self, oid: Oid) -> list[Oid]:
        """The next trees that are not near and that a walk comes to after ``oid``, as many as are fetched at once."""
        most = max(LEAST_TREES, min(MOST_TREES, int(AHEAD_BYTES / self._tree_bytes)))
        found: dict[Oid, None] = {}
        for one in islice(self._after(oid, trees=True), LOOKED_AT):
            found[one] = None
            if len(found) >= most:
                break
        return list(found)

    def note_trees(self, trees: Collection[Tree]) -> None:
        """These were fetched: the next are taken to be as large."""
        if trees:
            self._tree_bytes = sum(200 + ENTRY_BYTES * len(tree) for tree in trees) / len(trees)

    def _after(self, oid: Oid, *, trees: bool) -> Iterator[Oid]:
        at = oid
        for level in range(LEVELS):
            parent = self.parent(at)
            tree = self._tree(parent) if parent is not None else None
            if parent is None or tree is None:
                return
            behind = dropwhile(lambda entry: entry.oid != at, tree.values())  # noqa: B023 - used up in this turn
            for entry in islice(behind, 1, None):
                yield from self._inside(entry, level, trees)
            at = parent

    def _inside(self, entry: Entry, levels: int, trees: bool) -> Iterator[Oid]:
        if entry.is_file:
            if not trees:
                yield entry.oid
        elif entry.is_tree:
            tree = self._tree(entry.oid)
            if tree is None:
                if trees:
                    yield entry.oid
            elif levels:
                for below in tree.values():
                    yield from self._inside(below, levels - 1, trees)

    def fitting(self, oids: Iterable[Oid], besides: Oid | None = None) -> list[Oid]:
        """As many of the blobs ``oids`` as are fetched at once, ``besides`` one that is fetched anyway."""
        room = AHEAD_BYTES - (self._sizes.get(besides, GUESS) if besides is not None else 0)
        most = AHEAD_BLOBS - (besides is not None)
        found: list[Oid] = []
        for oid in oids:
            if not self.small(oid):
                continue
            size = self._sizes.get(oid, GUESS)
            if len(found) >= most or size > room:
                break
            if oid not in found:
                found.append(oid)
                room -= size
        return found


def _remember(kept: OrderedDict[Oid, T], oid: Oid, value: T, most: int) -> None:
    kept[oid] = value
    kept.move_to_end(oid)
    while len(kept) > most:
        kept.popitem(last=False)
