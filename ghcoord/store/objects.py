"""Git objects in pure Python: encoding, parsing, and editing a tree by paths.

The formats are those of gitformat-pack(5) and git-fsck(1): tree entries sort
by name, a directory as if its name ended in ``/``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from ghcoord.errors import Corrupt
from ghcoord.store.base import FILE_MODE, TREE_MODE, ChangeSet, CommitInfo, Entry, Kind, Oid, RawObject

_OID = re.compile(r"[0-9a-f]{40}")
_SECONDS = re.compile(r"-?[0-9]{1,15}")
AUTHOR_EMAIL = "hub@ghcoord.invalid"


def object_id(kind: Kind, data: bytes) -> Oid:
    """The git object id of ``data``."""
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()


_ENTRY = re.compile(rb"([^ ]* ([^\0]*)\0.{20})", re.DOTALL)


class Tree(Mapping[str, Entry]):
    """The entries of a tree object by name, kept as git stores them: each is parsed when it is asked for.

    ``lines`` holds mode, name and id by name, in git's order.
    """

    __slots__ = ("lines",)

    def __init__(self, lines: dict[str, bytes]) -> None:
        self.lines = lines

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Tree:
        """The tree of ``entries``, in any order."""
        return cls(_sorted({entry.name: _line(entry) for entry in entries}))

    def __getitem__(self, name: str) -> Entry:
        line = self.lines[name]
        if line.startswith(b"100644 "):  # nearly all are this or a directory, told without parsing
            return Entry(name, line[-20:].hex(), FILE_MODE)
        if line.startswith(b"40000 "):
            return Entry(name, line[-20:].hex(), TREE_MODE)
        return Entry(name, line[-20:].hex(), line[: line.index(b" ")].decode("ascii", "replace").lstrip("0"))

    def get(self, name: str, default: Entry | None = None) -> Entry | None:  # type: ignore[override]
        return self[name] if name in self.lines else default

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, name: object) -> bool:
        return name in self.lines

    def encode(self) -> bytes:
        """The tree object's content."""
        return b"".join(self.lines.values())


def _line(entry: Entry) -> bytes:
    return b"%s %s\0%s" % (entry.mode.encode(), _raw_name(entry.name), bytes.fromhex(entry.oid))


def _raw_name(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _is_tree(line: bytes) -> bool:
    return line.lstrip(b"0").startswith(b"40000 ")


def _order(item: tuple[str, bytes]) -> bytes:
    """Git's order: a directory sorts as if its name ended in ``/``."""
    line = item[1]
    if line.startswith(b"100644 "):  # nearly all, and cut out of the line they cost little
        return line[7:-21]
    name = line[line.index(b" ") + 1 : -21]
    return name + b"/" if _is_tree(line) else name


def _sorted(lines: dict[str, bytes]) -> dict[str, bytes]:
    return dict(sorted(lines.items(), key=_order))


def encode_tree(entries: Mapping[str, Entry]) -> bytes:
    """A tree object's content."""
    return Tree.of(entries.values()).encode()


def parse_tree(data: bytes) -> Tree:
    """The entries of a tree object, by name; raises ``Corrupt``."""
    found = _ENTRY.findall(data)
    if sum(len(line) for line, _ in found) != len(data):
        raise Corrupt("a tree object is damaged")
    return Tree({name.decode(errors="surrogateescape"): line for line, name in found})


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
    if not all(map(_OID.fullmatch, (tree, *parents))):
        raise Corrupt(f"commit {oid} is damaged: its tree or a parent is no object")
    return CommitInfo(oid, tree, tuple(parents), author, when, message.decode(errors="replace"))


def _nest(changes: ChangeSet) -> dict[str, object]:
    """``changes`` by directory; raises ``Corrupt`` where a path is wanted as a file and as a directory."""
    top: dict[str, object] = {}
    levels = {"": top}
    for path, content in changes.items():
        folder, _, name = path.rpartition("/")
        level = levels.get(folder)
        if level is None:
            level = _level(top, folder)
            if level is None:
                if content is None:
                    continue  # what was below goes with the directory
                raise Corrupt(f"{path!r} lies below a file of the same change")
            levels[folder] = level
        present = level.get(name)
        if not isinstance(present, dict):
            level[name] = content
        elif content is not None:
            if not _only_deletes(present):
                raise Corrupt(f"{path!r} is a file and a directory in one change")
            level[name] = content
            levels = {"": top}  # some of them are no more
    return top


def _level(top: dict[str, object], folder: str) -> dict[str, object] | None:
    """The changes in ``folder``; ``None`` where a file is put in its place or above it."""
    level = top
    for part in folder.split("/"):
        below = level.get(part)
        if isinstance(below, bytes):
            return None
        if not isinstance(below, dict):  # nothing yet, or a file that is deleted to make room
            below = level[part] = {}
        level = below
    return level


def _only_deletes(changes: dict[str, object]) -> bool:
    return all(change is None or (isinstance(change, dict) and _only_deletes(change)) for change in changes.values())


class TreeEditor:
    """Applies change sets to trees and collects the new objects.

    ``read_tree`` returns the entries of an existing tree.  Nothing is stored
    here: the driver takes :attr:`objects` and makes them durable its own way.
    :attr:`trees` are those among them, for the next edit.
    """

    def __init__(self, read_tree: Callable[[Oid], Mapping[str, Entry]]) -> None:
        self._read_tree = read_tree
        self.objects: dict[Oid, RawObject] = {}
        self.trees: dict[Oid, Tree] = {}

    def add(self, kind: Kind, data: bytes) -> Oid:
        """Collect one object; returns its id."""
        oid = object_id(kind, data)
        self.objects[oid] = (kind, data)
        return oid

    def apply(self, root: Oid | None, changes: ChangeSet) -> Oid:
        """The id of ``root`` with ``changes`` made; directories left empty disappear.

        A file that takes the place of a directory may come together with the deletion of what was in it.
        """
        made = self._edit(root, _nest(changes))
        return made if made is not None else self.add("tree", b"")

    def _edit(self, oid: Oid | None, changes: dict[str, object]) -> Oid | None:
        lines = self._lines(oid) if oid is not None else {}
        in_order = True
        for name, change in changes.items():
            old = lines.get(name)
            if isinstance(change, dict):
                old_tree = old[-20:].hex() if old is not None and _is_tree(old) else None
                below = self._edit(old_tree, change)
                if below is None:
                    if old_tree is not None:
                        del lines[name]
                    continue
                new = Entry(name, below, TREE_MODE)
            elif isinstance(change, bytes):
                new = Entry(name, self.add("blob", change), FILE_MODE)
            else:
                if old is not None and not _is_tree(old):
                    del lines[name]
                continue
            lines[name] = _line(new)
            in_order = in_order and old is not None and _is_tree(old) is new.is_tree
        if not lines:
            return None
        tree = Tree(lines if in_order else _sorted(lines))
        made = self.add("tree", tree.encode())
        self.trees[made] = tree
        return made

    def _lines(self, oid: Oid) -> dict[str, bytes]:
        """The lines of an existing tree, as a copy to change."""
        found = self._read_tree(oid)
        return dict(found.lines) if isinstance(found, Tree) else Tree.of(found.values()).lines
