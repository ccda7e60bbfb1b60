"""Which objects are in use: everything reachable from heads, down to where history is cut."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from ghcoord.errors import Corrupt
from ghcoord.store.base import Kind, Oid, RawObject
from ghcoord.store.objects import parse_commit

_LINE = re.compile(rb"[0-7]+ [^\0]+\0.{20}", re.DOTALL)
_KIND = 0o170000
"""The bits of a mode that say what an entry is; as git does, what is neither of these two is taken for a file."""
_TREE = 0o040000
_ELSEWHERE = 0o160000  # a submodule's commit


class Found(NamedTuple):
    """An object in use. ``data`` is ``None`` for a file, which nobody had to read; ``path`` is where a tree lies."""

    oid: Oid
    kind: Kind
    data: bytes | None
    path: bytes


class Reach:
    """What has been found in use so far; each object is found once, however often :meth:`walk` is called.

    ``read`` returns an object by its id and raises ``Corrupt`` for one that is
    not there.  The parents of the commits in ``cut`` do not count.
    """

    def __init__(self, read: Callable[[Oid], RawObject], cut: Collection[Oid] = ()) -> None:
        self._read = read
        self._cut = frozenset(cut)
        self._seen: set[bytes] = set()
        self.commits: set[Oid] = set()
        """The commits found."""
        self.ends: set[Oid] = set()
        """Those of the cut among them whose parents were left out."""

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, oid: Oid) -> bool:
        return bytes.fromhex(oid) in self._seen

    def walk(self, heads: Iterable[Oid]) -> Iterator[Found]:
        """Objects reachable from ``heads`` that were not found before, commits nearest first.

        Raises ``Corrupt`` where one is missing or damaged.
        """
        todo = deque(heads)
        while todo:
            oid = todo.popleft()
            if self._new(bytes.fromhex(oid)):
                kind, data = self._get(oid, "commit")
                commit = parse_commit(oid, data)
                self.commits.add(oid)
                if oid not in self._cut:
                    todo.extend(commit.parents)
                elif commit.parents:
                    self.ends.add(oid)
                yield Found(oid, kind, data, b"")
                yield from self._trees(commit.tree)

    def _trees(self, top: Oid) -> Iterator[Found]:
        todo = [(top, b"")] if self._new(bytes.fromhex(top)) else []
        while todo:
            oid, path = todo.pop()
            kind, data = self._get(oid, "tree")
            yield Found(oid, kind, data, path)
            for line in tree_lines(oid, data):
                raw = line[-20:]
                if raw in self._seen:
                    continue
                bits = 0 if line.startswith(b"100644 ") else int(line[: line.index(b" ")], 8) & _KIND
                if bits == _ELSEWHERE:
                    continue
                self._seen.add(raw)
                if bits == _TREE:
                    todo.append((raw.hex(), path + b"/" + line[line.index(b" ") + 1 : -21]))
                else:
                    yield Found(raw.hex(), "blob", None, b"")

    def _new(self, raw: bytes) -> bool:
        before = len(self._seen)
        self._seen.add(raw)
        return len(self._seen) > before

    def _get(self, oid: Oid, kind: Kind) -> RawObject:
        found = self._read(oid)
        if found[0] != kind:
            raise Corrupt(f"object {oid} is a {found[0]}, not a {kind}")
        return found


def tree_lines(oid: Oid, data: bytes) -> list[bytes]:
    """The entries of a tree as they stand there: mode, name and raw id. Raises ``Corrupt`` for one that is damaged."""
    lines: list[bytes] = _LINE.findall(data)
    if sum(map(len, lines)) != len(data):
        raise Corrupt(f"the tree {oid} is damaged")
    return lines
