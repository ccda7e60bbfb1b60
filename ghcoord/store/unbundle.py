"""A hub out of a file that anybody may have made: everything is checked before a branch is made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pygit2

from ghcoord.errors import Corrupt, Denied, StoreError, TooLarge, Unavailable, UsageError
from ghcoord.store.base import Oid, RawObject, Tell
from ghcoord.store.bundle import SIGNATURE
from ghcoord.store.packs import fsync_dir, write_durably
from ghcoord.store.reach import Reach
from ghcoord.store.unpack import Unpacked, checked_file, unpack

MAX_HEADS = 100_000
"""Spaces that a bundle may name."""

MAX_LINE = 1000
"""Bytes of a line that names a head."""

_OID = re.compile("[0-9a-f]{40}")


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
            space = ref.removeprefix(prefix)
            if heads.setdefault(space, oid) != oid:
                raise Corrupt(f"{file} is broken: it has the branch {space!r} twice")
        for space in heads:
            above = space
            while above := above.rpartition("/")[0]:
                if above in heads:
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
