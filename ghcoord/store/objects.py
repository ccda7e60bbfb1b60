"""Git objects in pure Python: encoding, parsing, and editing a tree by paths.

The formats are those of gitformat-pack(5) and git-fsck(1): tree entries sort
by name, a directory as if its name ended in ``/``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Literal

from ghcoord.errors import Corrupt
from ghcoord.store.base import FILE_MODE, TREE_MODE, ChangeSet, CommitInfo, Entry, Oid

Kind = Literal["commit", "tree", "blob"]
RawObject = tuple[Kind, bytes]

_SECONDS = re.compile(r"-?[0-9]{1,15}")
AUTHOR_EMAIL = "hub@ghcoord.invalid"


def object_id(kind: Kind, data: bytes) -> Oid:
    """The git object id of ``data``."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()


def encode_tree(entries: Mapping[str, Entry]) -> bytes:
    """A tree object's content."""
    ordered = sorted(entries.values(), key=lambda e: _raw_name(e.name + "/" if e.is_tree else e.name))
    return b"".join(b"%s %s\0%s" % (e.mode.encode(), _raw_name(e.name), bytes.fromhex(e.oid)) for e in ordered)


def _raw_name(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def parse_tree(data: bytes) -> dict[str, Entry]:
    """The entries of a tree object, by name."""
    entries: dict[str, Entry] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at)
        zero = data.find(b"\0", space)
        if space < 0 or zero < 0 or zero + 21 > len(data):
            raise Corrupt("a tree object is damaged")
        mode = data[at:space].decode("ascii", "replace").lstrip("0")
        name = data[space + 1 : zero].decode(errors="surrogateescape")
        entries[name] = Entry(name, data[zero + 1 : zero + 21].hex(), mode)
        at = zero + 21
    return entries


def clean_author(text: str) -> str:
    """``text`` as the name in a commit's author line, where ``<``, ``>`` and line ends may not stand."""
    kept = "".join(c for c in text if c.isprintable() and c not in "<>").strip(" .,:;\"'\\")
    return kept[:80] or "ghcoord"


def encode_commit(tree: Oid, parents: tuple[Oid, ...], author: str, time: int, message: str) -> bytes:
    """A commit object's content."""
    who = f"{clean_author(author)} <{AUTHOR_EMAIL}> {time} +0000"
    lines = [f"tree {tree}", *(f"parent {p}" for p in parents), f"author {who}", f"committer {who}", "", message]
    return "\n".join(lines).encode(errors="replace")


def parse_commit(oid: Oid, data: bytes) -> CommitInfo:
    """A commit object, its author as the name alone."""
    head, _, message = data.partition(b"\n\n")
    tree, parents, author, when = "", [], "", 0
    for line in head.split(b"\n"):
        word, _, rest = line.partition(b" ")
        if word == b"tree":
            tree = rest.decode("ascii", "replace")
        elif word == b"parent":
            parents.append(rest.decode("ascii", "replace"))
        elif word == b"author":
            name, _, tail = rest.decode(errors="replace").rpartition(" <")
            author = name
            stamp = tail.rpartition("> ")[2].split(" ")[0]
            when = int(stamp) if _SECONDS.fullmatch(stamp) else 0
    if not tree:
        raise Corrupt(f"commit {oid} has no tree")
    return CommitInfo(oid, tree, tuple(parents), author, when, message.decode(errors="replace"))


def _only_deletes(changes: dict[str, object]) -> bool:
    return all(change is None or (isinstance(change, dict) and _only_deletes(change)) for change in changes.values())


class TreeEditor:
    """Applies change sets to trees and collects the new objects.

    ``read_tree`` returns the entries of an existing tree.  Nothing is stored
    here: the driver takes :attr:`objects` and makes them durable its own way.
    """

    def __init__(self, read_tree: Callable[[Oid], Mapping[str, Entry]]) -> None:
        self._read_tree = read_tree
        self.objects: dict[Oid, RawObject] = {}

    def add(self, kind: Kind, data: bytes) -> Oid:
        """Collect one object; returns its id."""
        oid = object_id(kind, data)
        self.objects[oid] = (kind, data)
        return oid

    def apply(self, root: Oid | None, changes: ChangeSet) -> Oid:
        """The id of ``root`` with ``changes`` made; directories left empty disappear.

        A file that takes the place of a directory may come together with the deletion of what was in it.
        """
        nested: dict[str, object] = {}
        for path, content in changes.items():
            *parents, name = path.split("/")
            level = nested
            for part in parents:
                below = level.get(part)
                if isinstance(below, bytes):
                    if content is None:
                        break  # what was below goes with the directory
                    raise Corrupt(f"{path!r} lies below a file of the same change")
                if not isinstance(below, dict):  # nothing yet, or a file that is deleted to make room
                    below = level[part] = {}
                level = below
            else:
                present = level.get(name)
                if not isinstance(present, dict) or (content is not None and _only_deletes(present)):
                    level[name] = content
                elif content is not None:
                    raise Corrupt(f"{path!r} is a file and a directory in one change")
        made = self._edit(root, nested)
        return made if made is not None else self.add("tree", b"")

    def _edit(self, oid: Oid | None, changes: dict[str, object]) -> Oid | None:
        entries = dict(self._read_tree(oid)) if oid is not None else {}
        for name, change in changes.items():
            old = entries.get(name)
            if isinstance(change, dict):
                below = self._edit(old.oid if old is not None and old.is_tree else None, change)
                if below is None:
                    if old is None or old.is_tree:
                        entries.pop(name, None)
                else:
                    entries[name] = Entry(name, below, TREE_MODE)
            elif isinstance(change, bytes):
                entries[name] = Entry(name, self.add("blob", change), FILE_MODE)
            elif old is not None and not old.is_tree:
                del entries[name]
        return self.add("tree", encode_tree(entries)) if entries else None
