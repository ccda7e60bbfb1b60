"""A hub as one file: a git bundle, which ``git clone`` and ``git bundle verify`` understand as well.

Format: gitformat-bundle(5), version 2: heads as text, then a pack.  :mod:`ghcoord.store.unbundle` reads it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ghcoord.errors import Corrupt, Denied, Unavailable
from ghcoord.store.base import Oid, RawObject, Store, Tell
from ghcoord.store.objects import object_id, parse_commit
from ghcoord.store.packfile import BUFFER, PackWriter
from ghcoord.store.packs import fsync_dir
from ghcoord.store.reach import Reach

SIGNATURE = b"# v2 git bundle\n"


class Written(NamedTuple):
    """What a bundle holds: spaces, commits, objects, and the file's bytes."""

    heads: dict[str, Oid]
    commits: int
    objects: int
    size: int


def write_bundle(
    store: Store, file: Path, prefix: str, heads: Mapping[str, Oid], cut: Collection[Oid], first: str, tell: Tell
) -> Written:
    """Write ``heads`` and what is reachable from them to the new file at ``file``, in one piece or not at all.

    History ends at the commits ``cut``, and where it was cut before: those
    commits are written anew without parents, and so is what comes after them.
    ``first`` is the space that a clone checks out.
    """
    temporary = file.with_name(f".{file.name}.unfinished")
    pack = temporary.with_suffix(".pack")
    try:
        rewritten = _Rewritten(store.raw, cut)
        ends = {space: rewritten.name(head) for space, head in sorted(heads.items())}
        reach = Reach(rewritten.read)
        writer = PackWriter(pack)
        try:
            for head in ends.values():
                writer.new_root()
                for found in reach.walk([head]):
                    writer.add(found, found.data if found.data is not None else store.raw(found.oid)[1])
                    tell("packing", len(writer))
            writer.finish()
        finally:
            writer.close()
        _write(temporary, _head_lines(ends, prefix, first), pack)
        os.replace(temporary, file)
        fsync_dir(file.parent)
        return Written(ends, len(reach.commits), len(reach), file.stat().st_size)
    except OSError as error:
        kind = Denied if isinstance(error, PermissionError) else Unavailable
        raise kind(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        for leftover in (temporary, pack):
            leftover.unlink(missing_ok=True)


def _head_lines(heads: Mapping[str, Oid], prefix: str, first: str) -> bytes:
    lines = [f"{oid} {prefix}{space}\n" for space, oid in sorted(heads.items())]
    if first in heads:
        lines.append(f"{heads[first]} HEAD\n")
    return SIGNATURE + "".join(lines).encode() + b"\n"


def _write(path: Path, head: bytes, pack: Path) -> None:
    with path.open("wb", buffering=BUFFER) as out, pack.open("rb") as body:
        out.write(head)
        shutil.copyfileobj(body, out, BUFFER)
        out.flush()
        os.fsync(out.fileno())


class _Rewritten:
    """Commits under new names where their history is another: without the parents of those in ``cut``."""

    def __init__(self, read: Callable[[Oid], RawObject], cut: Collection[Oid]) -> None:
        self._raw = read
        self._cut = frozenset(cut)
        self._names: dict[Oid, Oid] = {}
        self._old: dict[Oid, Oid] = {}

    def name(self, head: Oid) -> Oid:
        """The name of ``head`` in the copy."""
        todo = [head]
        while todo:
            oid = todo[-1]
            if oid in self._names:
                todo.pop()
                continue
            missing = [parent for parent in self._parents(oid) if parent not in self._names]
            if missing:
                todo += missing
            else:
                todo.pop()
                made = object_id("commit", self._content(oid))
                self._names[oid] = made
                self._old[made] = oid
        return self._names[head]

    def read(self, oid: Oid) -> RawObject:
        """An object of the copy."""
        return ("commit", self._content(self._old[oid])) if oid in self._old else self._raw(oid)

    def _parents(self, oid: Oid) -> list[Oid]:
        if oid in self._cut:
            return []
        parents = parse_commit(oid, self._commit(oid)).parents
        return [one for one in parents if one in self._names or self._is_there(one)]

    def _is_there(self, oid: Oid) -> bool:
        try:
            return self._raw(oid)[0] == "commit"
        except Corrupt:
            return False  # history was cut here

    def _commit(self, oid: Oid) -> bytes:
        kind, data = self._raw(oid)
        if kind != "commit":
            raise Corrupt(f"object {oid} is a {kind}, not a commit")
        return data

    def _content(self, oid: Oid) -> bytes:
        data = self._commit(oid)
        parents = self._parents(oid)
        if tuple(parents) == parse_commit(oid, data).parents and all(self._names[one] == one for one in parents):
            return data
        head, gap, message = data.partition(b"\n\n")
        lines = [line for line in _unsigned(head.split(b"\n")) if not line.startswith(b"parent ")]
        lines[1:1] = [b"parent " + self._names[one].encode() for one in parents]
        return b"\n".join(lines) + gap + message


def _unsigned(lines: Iterable[bytes]) -> Iterable[bytes]:
    """A commit's lines without its signature, which is another's."""
    signature = False
    for line in lines:
        signature = line.startswith(b"gpgsig") or (signature and line.startswith(b" "))
        if not signature:
            yield line
