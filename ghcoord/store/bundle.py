"""A hub as one file: a git bundle, which ``git clone`` and ``git bundle verify`` understand as well.

Format: gitformat-bundle(5), version 2: heads as text, then a pack.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pygit2

from ghcoord.errors import Corrupt, Denied, StoreError, TooLarge, Unavailable, UsageError
from ghcoord.store.base import Oid, RawObject, Store, Tell
from ghcoord.store.objects import object_id, parse_commit
from ghcoord.store.packfile import BUFFER, PackWriter
from ghcoord.store.packs import fsync_dir, write_durably
from ghcoord.store.reach import Reach
from ghcoord.store.unpack import Unpacked, checked_file, unpack

SIGNATURE = b"# v2 git bundle\n"
MAX_HEADS = 100_000
"""Spaces that a bundle may name."""

MAX_LINE = 1000
"""Bytes of a line that names a head."""

_OID = re.compile("[0-9a-f]{40}")


class Written(NamedTuple):
    """What a bundle holds: spaces, commits, objects, and the file's bytes."""

    heads: dict[str, Oid]
    commits: int
    objects: int
    size: int


# -- export


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


# -- import


def read_heads(file: Path, prefix: str) -> tuple[dict[str, Oid], int]:
    """The spaces that the bundle at ``file`` names with their commits, and where its objects begin.

    Raises ``UsageError`` for a file that is no bundle of a hub, ``Corrupt`` for a broken one.
    """
    heads: dict[str, Oid] = {}
    with file.open("rb") as lines:
        first = lines.readline(MAX_LINE)
        if first != SIGNATURE:
            known = first.startswith(b"# v") and first.endswith(b" git bundle\n")
            raise UsageError(
                f"{file} is a bundle of another version: write it with --version=2" if known else _not(file)
            )
        while (line := lines.readline(MAX_LINE)) != b"\n":
            if line.startswith(b"-"):
                raise UsageError(f"{file} counts on commits that it does not hold: bundle the hub as a whole")
            oid, _, ref = line.decode("utf-8", "replace").removesuffix("\n").partition(" ")
            if not line.endswith(b"\n") or not _OID.fullmatch(oid) or len(heads) > MAX_HEADS:
                raise Corrupt(f"{file} is broken: its list of branches cannot be read")
            if ref == "HEAD":
                continue
            if not ref.startswith(prefix) or ref == prefix or not pygit2.reference_is_valid_name(ref):
                raise UsageError(f"{file} has the branch {ref[:80]!r}: a hub's lie below {prefix}")
            heads[ref.removeprefix(prefix)] = oid
        for space in heads:
            if any(space.rpartition("/")[0] == other or space.startswith(f"{other}/") for other in heads):
                raise Corrupt(f"{file} is broken: the branch {space!r} lies below another")
        return heads, lines.tell()


def _not(file: Path) -> str:
    return f"{file} is not a Git bundle: 'ghcoord export' writes one"


def load_bundle(file: Path, git_dir: Path, prefix: str, tell: Tell) -> dict[str, Oid]:
    """Bring the bundle at ``file`` into the new, empty repository at ``git_dir``; returns its heads.

    Everything is checked before a branch is made: each object by its name, and
    that none is missing.  Raises ``UsageError``, ``Corrupt``, ``TooLarge``.
    """
    try:
        heads, offset = read_heads(file, prefix)
        folder = git_dir / "objects" / "pack"
        folder.mkdir(parents=True, exist_ok=True)
        pack = folder / "unfinished.pack"
        checked_file(file, offset, pack)
        found = unpack(pack, tell)
        stem = f"pack-{found.digest.hex()}"
        pack.chmod(0o444)
        pack.rename(folder / f"{stem}.pack")
        write_durably(folder / f"{stem}.idx", found.index)
        fsync_dir(folder)
        _check_whole(git_dir, heads, found)
        refs = "".join(f"{oid} {prefix}{space}\n" for space, oid in sorted(heads.items()))
        write_durably(git_dir / "packed-refs", b"# pack-refs with: sorted \n" + refs.encode(), 0o644)
        fsync_dir(git_dir)
        return heads
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {error.filename or file}") from None
    except OSError as error:
        kind = Denied if isinstance(error, PermissionError) else Unavailable
        raise kind(f"cannot import {file}: {error.strerror or error}") from error
    except (Corrupt, TooLarge) as error:
        if str(file) in error.message:
            raise
        raise type(error)(f"{file} cannot be imported: {error.message}") from None


def _check_whole(git_dir: Path, heads: Mapping[str, Oid], found: Unpacked) -> None:
    """Raise ``Corrupt`` unless everything that is reachable from ``heads`` is there and is what it should be."""
    database = pygit2.Repository(str(git_dir)).odb

    def read(oid: Oid) -> RawObject:
        kind = found.kinds.get(bytes.fromhex(oid))
        if kind is None:
            raise Corrupt(f"the object {oid} is missing")
        try:
            return kind, database.read(oid)[1]
        except (KeyError, pygit2.GitError) as error:
            raise StoreError(f"the object {oid} cannot be read back: {error}") from error

    for one in Reach(read).walk(heads.values()):
        if found.kinds.get(bytes.fromhex(one.oid)) != one.kind:
            raise Corrupt(f"the {one.kind} {one.oid} is missing")
